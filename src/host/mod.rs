//! The host side: what its kernel says about devices.

pub mod explain;
pub mod list;
pub mod memory;
pub mod sysfs;
