//! The host side: what the host's kernel says about devices, and which drivers have them.

pub mod bind;
pub mod check;
pub mod class;
pub mod details;
pub mod explain;
pub mod facts;
pub mod in_use;
pub mod iommu;
pub mod list;
pub mod managed;
pub mod mdev;
pub mod memory;
pub mod name;
pub mod names;
mod open_files;
pub mod paths;
pub mod sriov;
pub mod style;
pub mod sysfs;
#[cfg(test)]
pub(crate) mod tree;
