//! Writes the report: a table to standard error, or JSON to a file.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use vmm::config::Statistics;
use vmm::log::phases::Phases;
use vmm::log::stderr::say;
use vmm::stats::Stats;
use vmm::sys;

use crate::report::Report;

/// The time limit for a write to a pipe or terminal whose reader is slow. The main loop handles no
/// signals during the write.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes reports.
pub struct Reporter {
    phases: Phases,
    file: Option<(PathBuf, Target)>,
}

/// The file for the report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the statistics to {}", path.display())]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

impl ReportError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> String {
        // A FIFO without a reader cannot be opened for writing without blocking (fifo(7)).
        if self.source.raw_os_error() == Some(libc::ENXIO) {
            return "start the program that reads it first".into();
        }
        "name a file that this user may write, for example --stats=/tmp/stats.json".into()
    }
}

impl Reporter {
    /// Opens the file before the run takes anything from the host, unless it is `given`. Returns
    /// `None` if the user wants no statistics.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(
        wanted: &Statistics,
        phases: Option<&Phases>,
        given: Option<File>,
    ) -> Result<Option<Self>, ReportError> {
        let Some(phases) = phases.cloned() else {
            return Ok(None);
        };
        let file = match wanted {
            Statistics::Off => return Ok(None),
            Statistics::Table => None,
            Statistics::Json(path) => {
                let target = match given {
                    Some(file) => Target::of(file),
                    None => Target::open(path),
                };
                let target = target.map_err(|source| ReportError {
                    path: path.clone(),
                    source,
                })?;
                Some((path.clone(), target))
            }
        };
        Ok(Some(Self { phases, file }))
    }

    /// Writes a report. If the file can no longer be written, a warning is logged and the run goes
    /// on.
    pub fn report(&self, stats: &Arc<Stats>) {
        let report = Report::new(stats, &self.phases);
        let Some((path, target)) = &self.file else {
            for line in report.to_string().lines() {
                say(format_args!("{line}"));
            }
            return;
        };
        let path = path.display();
        match target.write(&report) {
            Ok(()) => say(format_args!("mini-vmm: statistics are in {path}")),
            Err(e) => say(format_args!("mini-vmm: no statistics in {path}: {e}")),
        }
    }
}

/// The file for the JSON.
struct Target {
    file: File,
    /// Whether a report replaces the earlier report. It does not for a pipe or terminal, which has
    /// no length and no position. It does not for a file that is also a standard stream, which has
    /// other writers.
    replace: bool,
}

impl Target {
    /// Opens the file. Its content is kept until the first report.
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        Self::of(file)
    }

    fn of(file: File) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            let replace = false;
            return Ok(Self { file, replace });
        }
        let (stdout, stderr) = (io::stdout(), io::stderr());
        for stream in [stdout.as_fd(), stderr.as_fd()] {
            // Duplicates the stream's descriptor. Opening the file again would give a descriptor
            // with a position of its own, and the writes would overwrite each other.
            let stream = File::from(stream.try_clone_to_owned()?);
            if same(&file, &stream)? {
                let (file, replace) = (stream, false);
                return Ok(Self { file, replace });
            }
        }
        let replace = true;
        Ok(Self { file, replace })
    }

    fn write(&self, report: &Report) -> io::Result<()> {
        let text = report.to_json().map_err(io::Error::other)?;
        if self.replace {
            (&self.file).rewind()?;
            self.file.set_len(0)?;
        }
        write_in_time(&self.file, text.as_bytes(), PATIENCE)
    }
}

fn same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Writes all of `text`. An error is returned if the reader is too slow. A regular file is always
/// ready.
fn write_in_time(mut file: &File, mut text: &[u8], patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    while !text.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let ready = sys::ready(file.as_fd(), PollFlags::OUT, Some(left));
        let outcome = match ready {
            true => file.write(text),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        match outcome {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::other("its reader has stopped"));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    /// Opens the path of this descriptor below /proc/self/fd.
    fn through(fd: &impl AsRawFd) -> Target {
        Target::open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd()))).unwrap()
    }

    #[test]
    fn a_reader_that_stops_is_given_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        let target = through(&writer);
        assert!(!target.replace);
        // The text is larger than the buffer of any pipe.
        let begun = Instant::now();
        let error = write_in_time(&target.file, &[b'x'; 2 << 20], PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "its reader has stopped");
        assert!(begun.elapsed() >= PATIENCE);
        drop((writer, target));
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        assert!(!text.is_empty() && text.len() < 2 << 20);
    }

    #[test]
    fn a_reader_that_reads_gets_all() {
        let (mut reader, writer) = io::pipe().unwrap();
        let target = through(&writer);
        drop(writer);
        let reading = std::thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).map(|_| text)
        });
        let long = [b'x'; 1 << 20];
        write_in_time(&target.file, &long, Duration::from_secs(60)).unwrap();
        drop(target);
        assert_eq!(reading.join().unwrap().unwrap(), long);
    }
}
