//! The host side: what its kernel says about devices.

pub mod list;
pub mod memory;
pub mod sysfs;
