//! The host side: what its kernel says about devices, and which drivers have them.

pub mod bind;
pub mod in_use;
pub mod list;
pub mod managed;
pub mod memory;
pub mod sysfs;
#[cfg(test)]
pub(crate) mod tree;
