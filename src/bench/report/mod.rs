//! Reports of a run.
//!
//! | file | content |
//! | --- | --- |
//! | `results` | all that is known of a run, as JSON |
//! | `comparisons` | the ratios of the subjects |
//! | `markdown` | the same as tables |
//! | `date` | the time of day |

pub mod comparisons;
pub mod date;
pub mod markdown;
pub mod results;
