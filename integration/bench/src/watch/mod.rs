//! A VMM while it runs, watched from outside.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`process`] | start, console, clock and end of a program |
//! | [`memory`] | the memory that it has for itself |
//! | [`counters`] | its exits and phases, asked for in each VMM's own way |
//! | [`cpu`] | the CPU time of its threads |

pub mod counters;
pub mod cpu;
pub mod memory;
pub mod process;
