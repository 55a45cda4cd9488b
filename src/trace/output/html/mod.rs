//! One page that shows a whole trace: `--html FILE`. It needs no script and no network, and is
//! bounded: what grows with the number of events is folded, and the page says so.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `areas`, `answers`, `learn` | what is mapped where, and who answers an address |
//! | `timeline`, `story` | what happened when, in bins and in rows |
//! | `boxes`, `figure`, `chart`, `tables`, `page` | drawing |
//! | `escape`, `number`, `rows` | text in HTML, fields as numbers, events as lines |

mod answers;
mod areas;
mod boxes;
mod chart;
mod collect;
mod escape;
mod figure;
mod learn;
mod number;
pub mod output;
mod page;
mod rows;
mod story;
mod tables;
#[cfg(test)]
mod tests;
mod timeline;
