//! For tests of the order of closing, without VFIO. Pipes stand for the files of devices and
//! groups: as long as this process has the writing end, two of its descriptors lead to the pipe. A
//! pipe refuses every ioctl, as a removed device does, so each step of closing logs its failure.

use std::fs::{self, File};
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt;

/// Watched files, and the lines that are logged while they close.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Inner>);

#[derive(Default)]
struct Inner {
    files: Mutex<Vec<(&'static str, PipeReader)>>,
    lines: Mutex<Vec<String>>,
}

impl Watch {
    /// An open file under a name.
    pub fn file(&self, name: &'static str) -> File {
        let (reader, writer) = io::pipe().unwrap();
        self.0.files.lock().unwrap().push((name, reader));
        File::from(OwnedFd::from(writer))
    }

    /// Runs `act`. Returns each line that is logged or [noted](Watch::note) meanwhile, with the
    /// names of the files that were open at that moment.
    pub fn lines_of(&self, act: impl FnOnce()) -> Vec<String> {
        let watch = self.clone();
        let subscriber = fmt()
            .with_writer(move || watch.clone())
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        std::mem::take(&mut *self.0.lines.lock().unwrap())
    }

    /// Adds a line.
    pub fn note(&self, line: &str) {
        let files = self.0.files.lock().unwrap();
        let open: Vec<_> = files
            .iter()
            .filter(|(_, reader)| has_writer(reader))
            .map(|(name, _)| *name)
            .collect();
        let line = format!("{} [{}]", line.trim(), open.join(" "));
        self.0.lines.lock().unwrap().push(line);
    }
}

/// Whether this process has the pipe's other end. The pipe itself does not tell: a child that
/// another test has forked meanwhile has that end, too.
fn has_writer(reader: &PipeReader) -> bool {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let pipe = fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
    // A descriptor of another test may close meanwhile.
    let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    links.filter(|link| *link == pipe).count() > 1
}

impl Write for Watch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.note(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
