//! What a disk is known to hold: signatures of partition tables, file systems, volumes, RAIDs,
//! encryption and swap. A disk with one is not written to without the user's `--wipe`. In doubt a
//! disk holds something: a signature of two bytes counts, too, and a position that cannot be read
//! is an error.
//!
//! | file | content |
//! | --- | --- |
//! | `position` | where a signature is on a disk of some size |
//! | `table` | the signatures, each with its positions |
//! | `scan` | reading the positions of a disk |

mod position;
mod scan;
mod table;

pub use scan::{BLOCK, Signature, find};

#[cfg(test)]
mod tests;
