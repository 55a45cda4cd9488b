//! The host side: what its kernel says about devices.

pub mod explain;
pub mod list;
pub mod mdev;
pub mod memory;
pub mod name;
pub mod sriov;
pub mod sysfs;
