//! `mini-vmm-bench` measures a passed-through device on the machine that has the device: the same
//! work by the host's own driver and in a guest of mini-vmm, in turns.
//!
//! | module | content |
//! | --- | --- |
//! | [`stats`] | whether a difference is real: rounds, intervals, percentiles, the stopping rule |

pub mod stats;
