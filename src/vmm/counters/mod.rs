//! Counters that modules of the VM write and [`crate::stats`] reads. They depend on no other
//! module.

pub mod dma;
pub mod exits;
pub mod registers;
pub mod wakeups;
