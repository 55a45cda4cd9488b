//! The host side: what its kernel says about devices.

pub mod bind;
pub mod list;
pub mod managed;
pub mod memory;
pub mod sysfs;
