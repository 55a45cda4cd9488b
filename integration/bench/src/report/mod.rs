//! Reports that are made from results alone.
//!
//! | module | what it writes |
//! | --- | --- |
//! | [`markdown`] | the report as Markdown, and the table of targets |
//! | [`page`] | the report as an HTML page |
//! | [`plot`] | its plots, as SVG |
//! | [`series`] | nothing: the lines along an axis that tables and plots have in common |
//! | [`summary`] | the few rows that stand in docs/benchmarks.md |

pub mod markdown;
pub mod page;
pub mod plot;
pub mod series;
pub mod summary;
