//! Watches a VMM from outside while the VMM runs.
//!
//! | module | content |
//! | --- | --- |
//! | [`process`] | start, console, clock and end of a program |
//! | [`memory`] | the private memory of a process |
//! | [`counters`] | the exits and phases of a VMM, read in each VMM's own way |
//! | [`cpu`] | the CPU time of a VMM's threads |

pub mod counters;
pub mod cpu;
pub mod memory;
pub mod process;
