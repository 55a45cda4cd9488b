//! Reports of a run.
//!
//! | file | content |
//! | --- | --- |
//! | `results` | all that is known of a run, as JSON |
//! | `comparison`, `comparisons` | the ratios of the subjects |
//! | `markdown` | the same as tables |
//! | `file` | results in files |
//! | `compare` | two runs on one machine |
//! | `merge` | the results of many machines |
//! | `add` | adding to a text |
//! | `date` | the time of day |

mod add;
pub mod compare;
pub mod comparison;
pub mod comparisons;
pub mod date;
pub mod file;
pub mod markdown;
pub mod merge;
pub mod results;
#[cfg(test)]
mod tests;
