//! Results in files.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Context, Error, Result};
use crate::report::results::{Results, SCHEMA};

/// Writes NAME.json; returns its path.
///
/// # Errors
/// The file cannot be written.
pub fn write(name: &Path, results: &Results) -> Result<PathBuf> {
    let json = serde_json::to_string(results)
        .map_err(|e| Error::new(format!("the results are no JSON: {e}")))?;
    write_text(name, "json", &json)
}

/// Writes NAME.END; returns its path.
///
/// # Errors
/// The file cannot be written.
pub fn write_text(name: &Path, end: &str, text: &str) -> Result<PathBuf> {
    let mut path = name.to_owned().into_os_string();
    path.push(format!(".{end}"));
    let path = PathBuf::from(path);
    fs::write(&path, text).context(format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The part that all versions of the form have.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// Reads results.
///
/// # Errors
/// The file cannot be read, or has another form.
pub fn read(path: &Path) -> Result<Results> {
    let text = fs::read(path).context(format!("cannot read {}", path.display()))?;
    let bad = |e: serde_json::Error| {
        Error::new(format!(
            "{} has no results of mini-vmm-bench: {e}",
            path.display()
        ))
    };
    let version: Version = serde_json::from_slice(&text).map_err(bad)?;
    if version.schema != SCHEMA {
        return Err(Error::new(format!(
            "{} has the form {}, and this program knows the form {SCHEMA}",
            path.display(),
            version.schema
        ))
        .with_hint("measure again, or take the mini-vmm-bench that wrote the file"));
    }
    serde_json::from_slice(&text).map_err(bad)
}
