//! The host side: what the host's kernel says about devices, and which drivers have them.

pub mod bind;
pub mod check;
pub mod class;
pub mod details;
pub mod facts;
pub mod in_use;
pub mod interfaces;
pub mod iommu;
pub mod list;
pub mod managed;
pub mod names;
mod open_files;
pub mod paths;
pub mod style;
#[cfg(test)]
pub(crate) mod tree;
