//! What the user chooses.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use crate::stats::stopping::Stopping;
use crate::subjects::list::Change;
use crate::subjects::peer::Choice;
use crate::work::task::{Engine, Order, Work};

/// What the user chooses.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The device's address.
    pub address: String,
    /// The programs to measure; if none is named, one is looked for.
    pub vmms: Vec<PathBuf>,
    /// The guest's kernel, in place of the host's.
    pub guest_kernel: Option<PathBuf>,
    /// Further words of the guest's kernel command line.
    pub guest_cmdline: String,
    /// The guest's memory.
    pub memory: String,
    /// The host's CPUs.
    pub cpus: Option<Vec<usize>>,
    /// How several reads are in flight; the best that there is, if not named.
    pub engine: Option<Engine>,
    /// Mechanisms that are changed, one at a time.
    pub changes: Vec<Change>,
    /// Guests of other VMMs.
    pub peers: Vec<Choice>,
    /// The serial number of the disk that may be written to.
    pub destroy: Option<String>,
    /// Whether what that disk holds may be erased.
    pub wipe: bool,
    /// The second port of this machine that is the other end of a port's link.
    pub peer_port: Option<String>,
    /// The other end of a port's link on another machine.
    pub peer_address: Option<SocketAddrV4>,
    /// The address that the port gets, with the bits that name its network.
    pub own_address: Option<(Ipv4Addr, u8)>,
    /// A short run.
    pub quick: bool,
    /// The time of the run, in place of the default.
    pub time: Option<Duration>,
    /// The number of rounds, in place of the rule.
    pub rounds: Option<usize>,
    /// The time of each measurement, in place of the default.
    pub measure: Option<Duration>,
    /// The run ends when no interval is wider than this share of its ratio.
    pub width: f64,
}

impl Settings {
    /// The kinds of work of a disk, by as many CPUs. Writes come last, so that a turn's reads are
    /// the same without them.
    pub fn works(&self, cpus: usize) -> Vec<Work> {
        let mut works = vec![
            Work::new(4, 1, Order::Random),
            Work::new(4, 32, Order::Random),
        ];
        if !self.quick {
            works.push(Work::new(4, 128, Order::Random));
            works.push(Work::new(128, 8, Order::Sequential));
            if cpus > 1 {
                works.push(Work::new(4, 32, Order::Random).on_each_cpu());
            }
        }
        if self.destroy.is_some() {
            works.push(Work::writing(4, 1, Order::Random, 100));
            works.push(Work::writing(4, 32, Order::Random, 30));
            if !self.quick {
                works.push(Work::writing(4, 32, Order::Random, 100));
                works.push(Work::writing(128, 8, Order::Sequential, 100));
            }
        }
        works
    }

    /// Time before each measurement, and of each measurement.
    pub fn times(&self) -> (Duration, Duration) {
        let measure = self.measure.unwrap_or(match self.quick {
            true => Duration::from_millis(1500),
            false => Duration::from_secs(5),
        });
        (measure / 4, measure)
    }

    /// When the run ends.
    pub fn stopping(&self) -> Stopping {
        let minutes = if self.quick { 3 } else { 20 };
        let time = Duration::from_secs(minutes * 60);
        Stopping {
            fewest: self.rounds.unwrap_or(12),
            most: self.rounds.unwrap_or(100),
            width: self.width,
            time: self.time.unwrap_or(match self.rounds {
                Some(_) => Duration::MAX / 4,
                None => time,
            }),
        }
    }
}
