//! A call of the kernel that changes a device, and that may sleep: what it is, which process makes
//! it, and for whom it waits.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use pci::Bdf;
use serde::{Deserialize, Serialize};
use vmm::sys::process::Process;

use crate::bind::form::{run, write_run};

/// A process that has a node of the device open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// The process.
    #[serde(default, deserialize_with = "run", serialize_with = "write_run")]
    pub process: Option<Process>,
    /// The name of the process.
    pub name: String,
    /// The node.
    pub path: PathBuf,
}

/// A call that was begun. The names of the fields are the keys in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// The call, as a shell command.
    pub call: String,
    /// The process that makes the call. It makes no other call.
    #[serde(default, deserialize_with = "run", serialize_with = "write_run")]
    pub process: Option<Process>,
    /// When the call began, in seconds since 1970.
    pub since: u64,
    /// Whether a run has made the call, for a device that stays bound. Nothing is to be undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_run: bool,
    /// Whether the command stopped to wait for the call.
    #[serde(default)]
    pub given_up: bool,
    /// The signal by which the kernel ended the process in the middle of the call (an oops). The
    /// device's lock is never released then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The processes that had nodes of the device open when the command stopped to wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Waiter>,
}

impl UnderWay {
    /// A call that begins now.
    pub(super) fn begin(call: String, process: Process) -> Self {
        Self {
            call,
            process: Some(process),
            since: now(),
            of_run: false,
            given_up: false,
            signal: None,
            holders: Vec::new(),
        }
    }

    /// Whether the process that makes the call exists.
    pub fn sleeps(&self) -> bool {
        self.process.is_some_and(|process| process.lives())
    }

    /// Whether nothing may be written for the device: the call goes on, or was lost in the kernel.
    pub fn blocks(&self) -> bool {
        self.signal.is_some() || self.sleeps()
    }

    /// The number of the process that makes the call.
    pub fn pid(&self) -> u32 {
        self.process.map_or(0, |process| process.pid)
    }

    /// Seconds since the begin of the call.
    pub fn seconds(&self) -> u64 {
        now().saturating_sub(self.since)
    }

    /// The call's state as a sentence about the device.
    pub fn describe(&self, bdf: Bdf) -> String {
        let (call, pid) = (&self.call, self.pid());
        if let Some(signal) = self.signal {
            return format!(
                "PCI device {bdf} is locked until the host is restarted: the kernel failed in \
                 `{call}` and ended process {pid}, which made the call (signal {signal})"
            );
        }
        format!(
            "PCI device {bdf} is under way: the kernel has not ended `{call}`, which process \
             {pid} began {} seconds ago; {}",
            self.seconds(),
            self.waits_for()
        )
    }

    fn waits_for(&self) -> String {
        let living = self.holders.iter().filter_map(|holder| {
            let process = holder.process.filter(Process::lives)?;
            let (name, path) = (&holder.name, holder.path.display());
            Some(format!("{name} (process {}) with {path} open", process.pid))
        });
        let living: Vec<_> = living.collect();
        if !living.is_empty() {
            return format!("the call waits for {}", living.join(", "));
        }
        let what = match self.of_run {
            true => "the call opens, resets or closes the device for a run that has ended",
            false => "no process was found that has a node of the device open",
        };
        let function = fs::read_to_string(format!("/proc/{}/wchan", self.pid()));
        match function.as_deref().map(str::trim) {
            Ok(function) if !function.is_empty() && function != "0" => {
                format!("{what}; the call sleeps in the kernel's function {function}")
            }
            _ => what.into(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self, bdf: Bdf) -> String {
        if self.signal.is_some() {
            return "the kernel's message is in `dmesg`; restart the host to use the device again"
                .into();
        }
        let ends = self
            .holders
            .iter()
            .filter_map(|holder| holder.process.filter(Process::lives))
            .map(|process| process.pid.to_string());
        let mut ends: Vec<_> = ends.collect();
        ends.dedup();
        let first = if ends.is_empty() {
            format!(
                "as root, `cat /proc/{}/stack` shows where the call waits",
                self.pid()
            )
        } else {
            format!("end what it waits for: kill {}", ends.join(" "))
        };
        match self.of_run {
            true => format!("{first}; when the call has ended, the device can be used again"),
            false => format!("{first}; when the call has ended: mini-vmm host unbind {bdf}"),
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
