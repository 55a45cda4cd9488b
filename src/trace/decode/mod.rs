//! Decodes the arguments of KVM's, VFIO's and iommufd's ioctls. Pure: the caller reads the memory
//! of the traced program, and knows what kind of file a descriptor is.
//!
//! The tables are data:
//!
//! | file in `table/` | what is in it |
//! | --- | --- |
//! | headers.txt | calls, structures and constants; written by `cargo run -p headers` |
//! | calls.txt | for each call its files, its argument, what it is for, and its document |
//! | fields.txt | what fields mean: flags, descriptors, arrays, unions, pointers |
//! | msrs.txt, cpuid.txt | names of model-specific registers and of CPUID leaves |
//!
//! [`interpret`] walks a structure by these tables.

pub mod calls;
mod form;
mod form_text;
mod headers;
mod interpret;
mod record;
mod scalar;
mod tables;
#[cfg(test)]
mod tests;
pub mod value;
