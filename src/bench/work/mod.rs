//! The work of a turn: reads of a disk, and writes where the user has named the disk for them; or
//! messages over a network port. The work is the same for the host and for each guest.
//!
//! | file | content |
//! | --- | --- |
//! | `task` | what is done in a turn, and what it gives |
//! | `quantity` | the quantity by which subjects are compared |
//! | `disk` | the disk, opened for reads alone unless the user has named it |
//! | `holds` | what it holds |
//! | `content` | what is written |
//! | `writes` | where it is written, and the check of what is left |
//! | `fingerprint` | whether two subjects read the same content |
//! | `aligned` | a buffer for direct I/O |
//! | `window` | warm-up and measurement |
//! | `queues` | from one CPU or from each |
//! | `threads`, `uring` | several operations at a time, in two ways |
//! | `traffic`, `exchange` | messages over a network port |
//! | `trial` | all of a turn's work |
//! | `moment` | what any device is measured by: start, reset, reboot |
//! | `reset` | a reset of the function |

pub(crate) mod aligned;
mod content;
pub mod disk;
mod exchange;
pub mod fingerprint;
pub mod holds;
pub mod moment;
pub mod quantity;
pub mod queues;
pub mod reset;
pub mod task;
mod threads;
pub mod traffic;
pub mod trial;
pub mod uring;
mod window;
mod writes;
