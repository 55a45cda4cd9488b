//! The files of a run that are made from its JSON.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::page::html;
use crate::report::results::Results;
use crate::report::{csv, file, markdown};

/// Writes NAME.md, NAME.csv and NAME.html; returns their paths.
///
/// # Errors
/// A file cannot be written.
pub fn write(name: &Path, results: &Results) -> Result<Vec<PathBuf>> {
    let texts = [
        ("md", markdown::text(results)),
        ("csv", csv::text(results)),
        ("html", html::text(results)),
    ];
    let each = texts.iter();
    each.map(|(end, text)| file::write_text(name, end, text))
        .collect()
}
