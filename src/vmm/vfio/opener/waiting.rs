//! A call that has not ended within its limit.

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::geteuid;

use crate::sandbox::{self, run_as};
use crate::sys::process::Process;

/// A call that another process still makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The device's name.
    pub device: String,
    /// The call's name.
    pub call: &'static str,
    /// What the call does while it sleeps.
    pub(super) does: &'static str,
    /// The thread that makes the call, unless it has not begun. A thread has a number like a
    /// process, and /proc shows it in the same way.
    pub caller: Option<Process>,
    /// The time for which the call was waited for.
    pub waited: Duration,
}

impl Waiting {
    /// The waiting call behind an error.
    pub fn behind(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        // Another process of root's notes the call for such a run.
        self.hint_for(geteuid().is_root() || run_as::has_changed())
    }

    /// The hint for root, whose runs note the call for later commands, or for another user, who may
    /// not write the records.
    fn hint_for(&self, root: bool) -> String {
        let stack = self.caller.map_or(String::new(), |caller| {
            let pid = caller.pid;
            format!("as root, `cat /proc/{pid}/stack` shows where the call waits; ")
        });
        let end = match (root, self.caller) {
            (false, Some(caller)) => format!("it has ended when `ps -p {}` shows none", caller.pid),
            _ => "`mini-vmm host list` shows when it has ended".into(),
        };
        format!(
            "{stack}{end}; a slow device gets more time with --host-timeout {}",
            self.waited.as_secs().saturating_mul(6).max(60)
        )
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, call, does) = (&self.device, self.call, self.does);
        let seconds = self.waited.as_secs();
        write!(
            f,
            "{device}: the kernel has not ended {call} within {seconds} seconds: {does}"
        )?;
        let Some(caller) = self.caller else {
            return Ok(());
        };
        let wchan = || fs::read_to_string(format!("/proc/{}/wchan", caller.pid)).ok();
        // A confined vCPU opens no file.
        if let Some(function) = sandbox::may_read_files().then(wchan).flatten()
            && !matches!(function.trim(), "" | "0")
        {
            write!(
                f,
                ", and sleeps in the kernel's function {}",
                function.trim()
            )?;
        }
        let pid = caller.pid;
        write!(
            f,
            "; process {pid} of mini-vmm stays until the call has ended"
        )
    }
}

impl std::error::Error for Waiting {}

impl From<Waiting> for io::Error {
    fn from(waiting: Waiting) -> Self {
        Self::new(io::ErrorKind::TimedOut, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of calls are root's, so no later command tells another user of the call.
    #[test]
    fn each_user_is_told_how_to_see_the_end() {
        let mut waiting = Waiting {
            device: "0000:01:00.0".into(),
            call: "close",
            does: "the call resets the device",
            caller: Some(Process {
                pid: 77,
                started: 1,
            }),
            waited: Duration::from_secs(10),
        };
        assert!(
            waiting
                .hint_for(true)
                .contains("`mini-vmm host list` shows when")
        );
        let hint = waiting.hint_for(false);
        assert!(hint.contains("ended when `ps -p 77` shows none") && !hint.contains("host list"));
        waiting.caller = None;
        assert!(waiting.hint_for(false).starts_with("`mini-vmm host list`"));
    }
}
