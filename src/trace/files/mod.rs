//! The open files of traced programs: what a descriptor is.

pub mod identify;
pub mod open_file;
pub mod registry;
pub mod same;
pub mod table;
pub mod under_way;
