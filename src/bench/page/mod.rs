//! A run as one HTML page, which needs no script, no other file and no network.
//!
//! | file | content |
//! | --- | --- |
//! | `html` | the page |
//! | `rows` | a plot of a row for each subject: a value with its interval |
//! | `tails` | a plot of how many reads took longer than a time |
//! | `axis` | a logarithmic axis |
//! | `escape` | text in HTML |

mod axis;
mod escape;
pub mod html;
mod rows;
mod tails;
