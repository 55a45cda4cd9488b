//! Standard error that does not delay a run.
//!
//! If the reader has stopped or the terminal is gone, the message is lost. No thread waits for the
//! reader for long, and no thread ends because of an error.

use std::borrow::Cow;
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
            // Nobody is left to be told that the reader has gone.
            let _ = stderr.lock().write(&page(message));
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The part of a message that is written: at most a page, because a ready pipe takes a page without
/// blocking. The end of a longer message shows that it was cut, and ends the line.
fn page(message: &[u8]) -> Cow<'_, [u8]> {
    const PAGE: usize = 4096;
    const CUT: &[u8] = b" ... (cut)\n";
    match message.get(..PAGE - CUT.len()) {
        Some(start) if message.len() > PAGE => [start, CUT].concat().into(),
        _ => message.into(),
    }
}

/// Writes a line to standard error.
pub fn say(line: fmt::Arguments<'_>) {
    // The writer never fails.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_shows_it() {
        let whole = [b'x'; 4096];
        assert_eq!(*page(&whole), whole);
        let cut = page(&[b'x'; 4097]).into_owned();
        assert_eq!(cut.len(), 4096);
        assert!(cut.starts_with(b"xxx") && cut.ends_with(b"x ... (cut)\n"));
    }
}
