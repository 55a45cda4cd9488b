//! Where the report goes: a table on standard error, or JSON in a file.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::Stats;
use super::report::Report;
use crate::config::Statistics;
use crate::observe::phases::Phases;
use crate::observe::stderr::say;

/// Writes reports.
pub struct Reporter {
    phases: Phases,
    file: Option<(PathBuf, File)>,
}

/// The file for the report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the statistics to {}", path.display())]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

impl ReportError {
    /// What to type.
    pub fn hint(&self) -> String {
        "name a file that this user may write, for example --stats=/tmp/stats.json".into()
    }
}

impl Reporter {
    /// Opens the file, before anything is taken from the host; `None` when no statistics are wanted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(wanted: &Statistics, phases: Option<&Phases>) -> Result<Option<Self>, ReportError> {
        let Some(phases) = phases.cloned() else {
            return Ok(None);
        };
        let file = match wanted {
            Statistics::Off => return Ok(None),
            Statistics::Table => None,
            Statistics::Json(path) => {
                let file = File::create(path).map_err(|source| ReportError {
                    path: path.clone(),
                    source,
                })?;
                Some((path.clone(), file))
            }
        };
        Ok(Some(Self { phases, file }))
    }

    /// Reports what there is by now. A file that can no more be written is said, and ends no run.
    pub fn report(&self, stats: &Arc<Stats>) {
        let report = Report::new(stats, &self.phases);
        let Some((path, file)) = &self.file else {
            for line in report.to_string().lines() {
                say(format_args!("{line}"));
            }
            return;
        };
        let path = path.display();
        match write(file, &report) {
            Ok(()) => say(format_args!("mini-vmm: statistics are in {path}")),
            Err(e) => say(format_args!("mini-vmm: no statistics in {path}: {e}")),
        }
    }
}

/// In place of what an earlier report left.
fn write(mut file: &File, report: &Report) -> io::Result<()> {
    let text = report.to_json().map_err(io::Error::other)?;
    // A pipe or a terminal has no length and no position.
    if file.metadata()?.is_file() {
        io::Seek::rewind(&mut file)?;
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}
