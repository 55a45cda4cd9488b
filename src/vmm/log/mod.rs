//! What is said to the user: bounded warnings, error chains, progress, and the phases of a start.

pub mod error_chain;
pub mod limit;
pub mod phases;
pub mod progress;
pub mod stderr;
