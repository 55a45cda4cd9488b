//! The statistics of a run.
//!
//! The unit is the round. In a round each subject has one turn, and a turn gives one value for each
//! quantity, such as the median time of a read. Two subjects are compared by the ratio of their
//! values in the same round, so a disturbance that lasts longer than a round changes both. The
//! single operations of a turn are not independent of each other, so they are never the unit.
//!
//! | file | content |
//! | --- | --- |
//! | `order` | the turns of a round |
//! | `ratio` | the ratio of two subjects, and its bootstrap interval |
//! | `stopping` | when a run has enough rounds |
//! | `summary` | median and quartiles of the rounds' values |
//! | `latency` | times of single operations, and the percentiles that they support |

pub mod latency;
pub mod order;
pub mod ratio;
pub mod stopping;
pub mod summary;
#[cfg(test)]
mod tests;
