//! A network namespace (network_namespaces(7)): what is in it sees no other port, address or route
//! of the host. It has no name, so it ends with the last file and socket of this process, and
//! the kernel moves its ports back to the host's namespace then. So a kill leaves nothing behind.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Context, Error, Result};

/// The namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing in it but a loopback interface that is down.
    ///
    /// # Errors
    /// The kernel makes none.
    pub fn new() -> Result<Self> {
        apart(|| {
            // SAFETY: the thread leaves no table of files that it shares with others, but its
            // network alone.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .context("cannot make a network namespace")?;
            Self::own()
        })?
    }

    /// That of the calling thread.
    ///
    /// # Errors
    /// /proc does not show it.
    pub fn own() -> Result<Self> {
        let file = File::open(OWN).context(format!("cannot open {OWN}"))?;
        Ok(Self(file))
    }

    /// Runs something in it: sockets and processes that it starts stay in it.
    ///
    /// # Errors
    /// The kernel does not let a thread in, or the thread panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        apart(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter a network namespace")?;
            Ok(work())
        })?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs something in a thread of its own, because a namespace is a thread's.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work);
        let thread = thread.context("cannot start a thread")?;
        thread.join().map_err(|_| Error::new("a thread failed"))
    })
}
