//! Standard error that does not delay a run.
//!
//! If the reader has stopped or the terminal is gone, the message is lost. No thread waits for the
//! reader for long, and no thread ends because of an error.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::sys;

/// How long a message may wait for a reader that has taken the previous message.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether the last message was lost. Then the next message does not wait.
static LAST_LOST: AtomicBool = AtomicBool::new(false);

/// A writer to standard error. Each call of `write` takes a whole message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let patience = if LAST_LOST.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let ready = sys::ready(stderr.as_fd(), PollFlags::OUT, Some(patience));
        LAST_LOST.store(!ready, Ordering::Relaxed);
        if ready {
            // Only the first page of a message is written: a ready pipe takes a page without
            // blocking.
            let page = message.get(..4096).unwrap_or(message);
            let _ = stderr.lock().write(page);
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line to standard error.
pub fn say(line: fmt::Arguments<'_>) {
    // The writer never fails.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}
