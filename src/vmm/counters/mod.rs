//! Counters that the modules of the VM keep, and [`crate::stats`] reads.

pub mod dma;
pub mod exits;
pub mod registers;
