//! Reports of a run. Their only input is the results.
//!
//! | module | output |
//! | --- | --- |
//! | [`markdown`] | the report as Markdown, and the table of targets |
//! | [`page`] | the report as an HTML page |
//! | [`plot`] | its plots, as SVG |
//! | [`series`] | the lines along an axis, as data for tables and plots |
//! | [`summary`] | the most important rows, for docs/benchmarks.md |

pub mod markdown;
pub mod page;
pub mod plot;
pub mod series;
pub mod summary;
