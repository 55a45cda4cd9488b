//! The host side: reads facts about devices from the host's kernel, and changes which drivers have
//! the devices.

pub mod bar_holders;
pub mod bind;
pub mod binder;
pub mod cdi;
pub mod check;
pub mod class;
pub mod details;
pub mod facts;
pub mod in_use;
pub mod interfaces;
pub mod iommu;
pub mod limited;
mod limited_command;
pub mod list;
pub mod managed;
pub mod names;
mod nodes;
mod noted;
mod open_files;
pub mod paths;
pub mod persist;
pub mod slurm;
pub mod style;
#[cfg(test)]
pub(crate) mod tree;
pub mod whole_file;
