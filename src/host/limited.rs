//! Reads and searches with a time limit.
//!
//! A few attributes of sysfs are read under the device's lock or wait for its reset, and a file
//! under /proc under the lock of a process's memory. If the holder of such a lock sleeps, the
//! reader sleeps too, and no signal ends that. A child process reads therefore
//! ([`vmm::sys::worker::Worker`]).

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm::sys::worker::{Progress, Worker};

/// The time limit for facts about a device. It is far above what a driver's probe or a reset
/// usually takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Does work in a child process, and returns the child's result. If this process cannot fork,
/// because it has several threads, it does the work itself, without a limit.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if the limit is over; the child stays until the kernel lets it go.
pub(crate) fn within<T: Serialize + DeserializeOwned>(
    limit: Duration,
    work: impl Fn() -> T,
) -> io::Result<T> {
    let answer = || serde_json::to_vec(&work()).unwrap_or_default();
    let Ok(mut worker) = Worker::prepare(answer) else {
        return Ok(work());
    };
    worker.start()?;
    match worker.wait(limit) {
        Progress::Ended(answer) => Ok(serde_json::from_slice(&answer)?),
        Progress::Killed(signal) => Err(io::Error::other(format!(
            "the process that read was ended by signal {signal}"
        ))),
        Progress::Busy => {
            // A search that only takes long is not needed any more.
            worker.process().end_sleep();
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "the kernel has not answered within {} seconds",
                    limit.as_secs()
                ),
            ))
        }
    }
}

/// Reads a file.
///
/// # Errors
/// The errno, or [`io::ErrorKind::TimedOut`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let outcome: Result<Vec<u8>, i32> = within(LIMIT, || {
        fs::read(path).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
    })?;
    outcome.map_err(io::Error::from_raw_os_error)
}

/// Reads an attribute's first line; empty if there is no such attribute.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`].
pub(crate) fn attribute(path: &Path) -> io::Result<String> {
    match read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.lines().next().unwrap_or_default().trim().to_owned())
        }
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(e),
        Err(_) => Ok(String::new()),
    }
}
