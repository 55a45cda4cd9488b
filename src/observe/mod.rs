//! What a run tells about itself.

pub mod limit;
pub mod phases;
pub mod progress;
pub mod report;
pub mod stats;
pub mod stderr;
