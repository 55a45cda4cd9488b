//! What a turn gives.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::subjects::totals::Total;
use crate::work::moment::Moments;
use crate::work::task::{Message, Sample, Task};

/// The number of the kind of work that is under way, or 0. Each kind of each turn has another one.
pub static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

/// The last such number.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Hears when a kind of work of a timed turn is under way. A pass that counts has none: the guest
/// sleeps in it before and after each kind of work, and the link may sleep, too.
pub(super) struct Works;

impl Works {
    /// Hears a message of the subject.
    pub(super) fn hear(&mut self, message: &Message) {
        match message {
            Message::Start { .. } => {
                let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
                UNDER_WAY.store(number, Ordering::Relaxed);
            }
            Message::Stopped { .. } => UNDER_WAY.store(0, Ordering::Relaxed),
            _ => {}
        }
    }
}

impl Drop for Works {
    /// The turn is over, also by an error amid its work.
    fn drop(&mut self) {
        UNDER_WAY.store(0, Ordering::Relaxed);
    }
}

/// What a turn gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The subject's index.
    pub subject: usize,
    /// When the turn began, in seconds since the run's start.
    pub started_s: f64,
    /// The kernel whose driver had the disk.
    pub kernel: String,
    /// Milliseconds from the start of the VMM, or before it from the start of binding the device,
    /// until the disk was there in the guest; `None` for the host.
    pub ready_ms: Option<u64>,
    /// Milliseconds from the start of the guest's kernel until then; `None` for the host.
    pub guest_ready_ms: Option<u64>,
    /// A hash of what the disk has.
    pub sha256: String,
    /// How many of the hashed blocks are zero.
    pub zeros: u32,
    /// How many blocks were hashed.
    pub blocks: u32,
    /// The same hash after the writes of the turn, if there were any.
    #[serde(default)]
    pub left_sha256: Option<String>,
    /// KVM's exits of each kind of work; none for the host, or if KVM's files cannot be read.
    #[serde(default)]
    pub totals: Vec<Total>,
    /// Start, reset and reboot.
    #[serde(default)]
    pub moments: Moments,
    /// A sample for each kind of work, in order.
    pub samples: Vec<Sample>,
}

impl Trial {
    /// Takes a message of the subject in. Returns whether it was the last.
    ///
    /// # Errors
    /// The subject has failed.
    pub fn hear(&mut self, message: Message) -> Result<bool> {
        match message {
            Message::Ready { kernel, uptime_ms } => {
                self.kernel = kernel;
                self.guest_ready_ms = Some(uptime_ms);
            }
            Message::Content {
                sha256,
                zeros,
                blocks,
            } => (self.sha256, self.zeros, self.blocks) = (sha256, zeros, blocks),
            Message::Init
            | Message::Start { .. }
            | Message::Stopped { .. }
            | Message::Reset { .. }
            | Message::Reboot => {}
            Message::Left { sha256 } => self.left_sha256 = Some(sha256),
            Message::Done(sample) => self.samples.push(sample),
            Message::End => return Ok(true),
            Message::Failed { why } => return Err(Error::new(why)),
        }
        Ok(false)
    }

    /// Adds what another start of the same turn has given.
    pub(super) fn add(&mut self, other: Self) {
        if self.kernel.is_empty() {
            self.kernel = other.kernel;
        }
        self.ready_ms = self.ready_ms.or(other.ready_ms);
        self.guest_ready_ms = self.guest_ready_ms.or(other.guest_ready_ms);
        self.moments.add(other.moments);
    }

    /// Checks that the turn has a sample of each kind of work, each with reads.
    ///
    /// # Errors
    /// A sample is missing or empty.
    pub fn check(&self, task: &Task) -> Result<()> {
        let names = self.samples.iter().map(|sample| &sample.work);
        if !names.eq(task.works.iter().map(|work| &work.name)) {
            return Err(Error::new("not all of the work was done"));
        }
        match self.samples.iter().find(|sample| sample.operations == 0) {
            Some(sample) => Err(Error::new(format!(
                "no operation of {} ended in {} s",
                sample.work, sample.seconds
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only this test hears [`Works`] here, so that nothing else changes the number.
    #[test]
    fn work_is_under_way_from_its_start_to_its_stop_or_the_turn_s_end() {
        let now = || UNDER_WAY.load(Ordering::Relaxed);
        let start = Message::Start {
            work: "w".to_owned(),
        };
        let stop = Message::Stopped {
            work: "w".to_owned(),
            reads: 1,
        };
        // A pass that counts is heard by the trial alone.
        Trial::default().hear(start.clone()).unwrap();
        assert_eq!(now(), 0);
        let mut works = Works;
        works.hear(&start);
        let first = now();
        works.hear(&stop);
        let between = now();
        works.hear(&start);
        let second = now();
        drop(works);
        assert!(first != 0 && between == 0 && second > first);
        assert_eq!(now(), 0);
    }
}
