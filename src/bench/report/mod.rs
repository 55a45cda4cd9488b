//! Reports of a run.
//!
//! | file | content |
//! | --- | --- |
//! | `results` | all that is known of a run, as JSON |
//! | `comparison`, `comparisons` | the ratios of the subjects |
//! | `measured` | what the subjects are compared by |
//! | `tables`, `words` | what the Markdown and the page show |
//! | `markdown`, `csv` | a run as Markdown, and a line a sample |
//! | `file` | results in files |
//! | `compare` | two runs on one machine |
//! | `merge` | the results of many machines |
//! | `agreement` | whether both passes had the same exits |
//! | `anchors` | published figures |
//! | `add` | adding to a text |
//! | `escape` | text in Markdown |
//! | `date` | the time of day |

pub mod add;
mod agreement;
pub mod anchors;
pub mod compare;
pub mod comparison;
pub mod comparisons;
pub mod csv;
pub mod date;
mod escape;
pub mod file;
pub mod markdown;
pub mod measured;
pub mod merge;
pub mod results;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod words;
