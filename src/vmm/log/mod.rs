//! Output for the user: limited warnings, losses, error chains, progress bars, and the phases of a
//! start.

pub mod degraded;
pub mod error_chain;
pub mod limit;
pub mod phases;
pub mod progress;
pub mod stderr;
