//! The host side: what its kernel says about devices.

pub mod in_use;
pub mod list;
pub mod memory;
pub mod sysfs;
#[cfg(test)]
pub(crate) mod tree;
