//! Decodes the arguments of KVM's, VFIO's and iommufd's ioctls. Pure: the caller reads the memory
//! of the traced program, and knows what kind of file a descriptor is.

pub mod calls;
pub mod value;
