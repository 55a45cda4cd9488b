//! What the host's kernel says of devices and memory. Nothing is written.

pub mod mdev;
pub mod memory;
pub mod name;
pub mod sriov;
pub mod sysfs;
