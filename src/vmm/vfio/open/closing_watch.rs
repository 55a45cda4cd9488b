//! For tests of the order of closing, without VFIO. Pipes stand for the files of devices and
//! groups, because the reading end of a pipe shows when the other end has closed. A pipe refuses
//! every ioctl, as a removed device does, so each step of closing logs its failure.

use rustix::event::PollFlags;
use std::fs::File;
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::fmt;

use crate::sys::ready;

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
        let is_open = |(_, reader): &&(_, PipeReader)| {
            !ready(reader.as_fd(), PollFlags::HUP, Some(Duration::ZERO))
        };
        let open: Vec<_> = files
            .iter()
            .filter(is_open)
            .map(|(name, _)| *name)
            .collect();
        let line = format!("{} [{}]", line.trim(), open.join(" "));
        self.0.lines.lock().unwrap().push(line);
    }
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
