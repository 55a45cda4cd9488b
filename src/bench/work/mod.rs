//! The work of a turn: reads of a disk, which are the same for the host and for each guest.
//!
//! | file | content |
//! | --- | --- |
//! | `task` | what is done in a turn, and what it gives |
//! | `quantity` | the quantity by which subjects are compared |
//! | `disk` | the disk, opened for reads alone |
//! | `fingerprint` | whether two subjects read the same content |
//! | `aligned` | a buffer for direct I/O |
//! | `window` | warm-up and measurement |
//! | `threads`, `uring` | several reads at a time, in two ways |
//! | `trial` | all of a turn's work |

mod aligned;
pub mod disk;
pub mod fingerprint;
pub mod quantity;
pub mod task;
mod threads;
pub mod trial;
pub mod uring;
mod window;
