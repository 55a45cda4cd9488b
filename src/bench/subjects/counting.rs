//! Reading what the work costs a guest, in a pass of its own: times never come from it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::subjects::child::Vmm;
use crate::subjects::counts::{Costs, Count};
use crate::subjects::cycles::Cycles;
use crate::subjects::monitor::Monitor;
use crate::subjects::watch::Watch;
use crate::work::task::{IDLE, Message};

/// How long the guest sleeps before and after each kind of work.
pub const PAUSE: Duration = Duration::from_millis(1500);

/// Who counts.
pub(super) enum Source {
    /// mini-vmm: its report of `--stats`, in memory.
    Report(OwnedFd),
    /// QEMU.
    Monitor(Monitor),
}

/// What is counted.
pub(super) struct Counting {
    source: Source,
    cycles: std::result::Result<Cycles, String>,
    before: Costs,
    counts: Vec<Count>,
}

impl Counting {
    /// Nothing is counted yet.
    pub(super) fn by(source: Source) -> Self {
        Self {
            source,
            cycles: Err("the guest has not begun".into()),
            before: Costs::default(),
            counts: Vec::new(),
        }
    }

    /// What was counted, for a subject.
    pub(super) fn counts(self, subject: usize) -> Vec<Count> {
        let counts = self.counts.into_iter();
        counts.map(|count| Count { subject, ..count }).collect()
    }

    /// Reads the costs when the guest has begun to sleep.
    fn heard(&mut self, vmm: &Vmm, message: &Message) -> Result<()> {
        match message {
            Message::Start { work } if work == IDLE => {
                // Where there are no counters, the report says why.
                self.cycles = Cycles::start(&process(vmm)).map_err(|e| e.to_string());
                self.before = self.read(vmm)?;
            }
            Message::Start { .. } => self.before = self.read(vmm)?,
            Message::Stopped { work, reads } => {
                let costs = self.read(vmm)?.since(&self.before);
                self.counts.push(Count {
                    subject: 0,
                    work: work.clone(),
                    reads: *reads,
                    no_cycles: self.cycles.as_ref().err().cloned(),
                    costs,
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, vmm: &Vmm) -> Result<Costs> {
        let process = process(vmm);
        let costs = match &mut self.source {
            Source::Report(file) => Costs::of(&report(file, vmm)?, &process),
            Source::Monitor(monitor) => Costs::of_kvm(monitor.counters()?, &process),
        };
        let read = self.cycles.as_ref().map(Cycles::read);
        let cycles = match read {
            Ok(Ok(cycles)) => Some(cycles),
            Ok(Err(error)) => {
                self.cycles = Err(error.to_string());
                None
            }
            Err(_) => None,
        };
        Ok(Costs {
            guest_cycles: cycles.map(|(guest, _)| guest),
            host_cycles: cycles.map(|(_, host)| host),
            ..costs
        })
    }
}

/// The directory of a VMM.
fn process(vmm: &Vmm) -> PathBuf {
    Path::new("/proc").join(vmm.pid().to_string())
}

impl Watch for Counting {
    fn hear(&mut self, vmm: &Vmm, message: &Message) -> Result<()> {
        self.heard(vmm, message)
    }
}

/// Lets mini-vmm write its report, and reads it.
fn report(file: &OwnedFd, vmm: &Vmm) -> Result<Value> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read = || -> Option<Value> { serde_json::from_slice(&fs::read(&own).ok()?).ok() };
    let time = |report: &Value| report["uptime_us"].as_u64();
    let before = read().as_ref().and_then(time);
    vmm.signal(Signal::USR1)?;
    let asked = Instant::now();
    while asked.elapsed() < PAUSE {
        // A report that is being written is no JSON yet.
        if let Some(report) = read()
            && time(&report) > before
        {
            return Ok(report);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(
        "mini-vmm wrote no report of its statistics in time",
    ))
}
