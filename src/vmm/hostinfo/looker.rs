//! Who looks at other processes for this one.
//!
//! Landlock hides the open files of other processes from a confined VMM (landlock.rst, "Ptrace
//! restrictions"), and a VMM without capabilities does not see those of other users. The process
//! that opens devices is not confined in this way, and looks for the VMM. The VMM may have been
//! taken over by its guest, so that it may ask these questions and no other.

use std::io;
use std::sync::{OnceLock, Weak};

/// A question about other processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Which processes have one of these nodes open.
    Holders(Vec<String>),
    /// How much memory other processes of this user have locked by iommufd.
    Locked,
}

/// Another process that answers.
pub trait Looker: Send + Sync {
    /// The answer, as lines of text.
    ///
    /// # Errors
    /// There is no answer.
    fn look(&self, look: Look) -> io::Result<String>;
}

static LOOKER: OnceLock<Weak<dyn Looker>> = OnceLock::new();

/// Lets `looker` look for this process from now on. The first call counts.
pub fn set(looker: Weak<dyn Looker>) {
    let _ = LOOKER.set(looker);
}

/// The answer of the other process; `None` if this process looks itself.
pub(super) fn ask(look: impl FnOnce() -> Look) -> Option<io::Result<String>> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let looker = LOOKER.get()?.upgrade().ok_or_else(gone);
    Some(looker.and_then(|looker| looker.look(look())))
}
