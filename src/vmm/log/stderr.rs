//! Standard error that cannot hold a run up.
//!
//! What we say is less important than what we do: a reader that has stopped, or a terminal that is
//! gone, loses the message, and no thread waits for it or dies of it.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::sys;

/// How long a first message may wait for its reader.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether the last message found no reader; the next does not wait at all.
static STUCK: AtomicBool = AtomicBool::new(false);

/// A writer whose every write is a whole message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let patience = if STUCK.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let ready = sys::ready(stderr.as_fd(), PollFlags::OUT, Some(patience));
        STUCK.store(!ready, Ordering::Relaxed);
        if ready {
            // A pipe that is ready takes a page without blocking; a message is less.
            let page = message.get(..4096).unwrap_or(message);
            let _ = stderr.lock().write(page);
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says a line.
pub fn say(line: fmt::Arguments<'_>) {
    // The writer above has no errors.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}
