//! All that is known of a run, as JSON. docs/benchmarking.md describes the fields.

use serde::{Deserialize, Serialize};

use crate::context::fact::Fact;
use crate::cross::check::CrossCheck;
use crate::report::comparison::Comparison;
use crate::report::date;
use crate::session::device::Unit;
use crate::session::link::Link;
use crate::session::plan::Plan;
use crate::session::rounds::{Ended, Rounds};
use crate::stats::latency::Latencies;
use crate::stats::stopping::Reason;
use crate::subjects::chains::Interrupts;
use crate::subjects::counts::Count;
use crate::subjects::list::{Kind, Subject};
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::work::moment::Moment;
use crate::work::quantity;
use crate::work::task::{Engine, Work};

/// The version of the form. Results of different versions are never compared.
pub const SCHEMA: u32 = 1;

/// All that is known of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of this program.
    pub bench: String,
    /// When the run ended, in UTC.
    pub date: String,
    /// The machine.
    pub machine: Machine,
    /// The device.
    pub device: Device,
    /// The subjects.
    pub subjects: Vec<Subject>,
    /// The kinds of work.
    pub works: Vec<Work>,
    /// How the work is done.
    pub method: Method,
    /// Why the run ended: `width`, `time`, `rounds`, or an error.
    pub ended: String,
    /// The turns of each whole round, in the order of the subjects.
    pub rounds: Vec<Vec<Trial>>,
    /// What the reads cost the guests, in a pass of its own.
    pub counts: Vec<Count>,
    /// The interrupts of the guests that have the device, in traced passes of their own.
    #[serde(default)]
    pub interrupts: Vec<Interrupts>,
    /// What another program says of the host's work.
    #[serde(default)]
    pub checks: Vec<CrossCheck>,
    /// The machine's state before the run, and what changed during it.
    pub context: Vec<Fact>,
    /// The comparisons.
    pub comparisons: Vec<Comparison>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Its name in the network.
    pub name: String,
    /// The model of its processor.
    pub processor: String,
    /// The release of its kernel.
    pub kernel: String,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its address.
    pub address: String,
    /// The host's driver.
    pub driver: String,
    /// The disk's model.
    pub model: Option<String>,
    /// The disk's serial number, or the port's hardware address.
    pub serial: Option<String>,
    /// The disk's size in bytes; 0 for a port.
    pub bytes: u64,
}

/// How the work is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// How several reads are in flight.
    pub engine: Engine,
    /// Time before each measurement.
    pub warm_up_ms: u64,
    /// Time of each measurement.
    pub measure_ms: u64,
    /// The host's CPUs that all subjects have.
    pub cpus: Vec<usize>,
    /// The guest's memory.
    pub memory: String,
    /// The guest's kernel.
    pub guest_kernel: String,
    /// The other end of a network port's link.
    #[serde(default)]
    pub other_end: Option<String>,
}

impl Results {
    /// The results of a run's rounds, still without comparisons.
    pub fn of(plan: &Plan, rounds: Rounds, context: Vec<Fact>) -> Self {
        let disk = plan.device.disk();
        Self {
            schema: SCHEMA,
            bench: env!("CARGO_PKG_VERSION").into(),
            date: date::now(),
            machine: Machine {
                name: rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned(),
                processor: processor(),
                kernel: plan.release.clone(),
            },
            device: Device {
                address: plan.device.address.clone(),
                driver: plan.device.driver_in_words().to_owned(),
                model: disk.and_then(|disk| disk.model.clone()),
                serial: match &plan.device.unit {
                    Unit::Disk(disk) => disk.serial.clone(),
                    Unit::Port(port) => Some(port.mac.clone()),
                    Unit::Function => None,
                },
                bytes: disk.map_or(0, |disk| disk.id.sectors * 512),
            },
            subjects: plan.subjects.clone(),
            works: plan.task.works.clone(),
            method: Method {
                engine: plan.task.engine,
                warm_up_ms: plan.task.warm_up_ms,
                measure_ms: plan.task.measure_ms,
                cpus: plan.cpus.clone(),
                memory: plan.memory.clone(),
                guest_kernel: plan.kernel.release.clone(),
                other_end: plan.link.as_ref().map(Link::end_in_words),
            },
            ended: match rounds.ended {
                Ended::Rule(Reason::Width) => "width".into(),
                Ended::Rule(Reason::Time) => "time".into(),
                Ended::Rule(Reason::Rounds) => "rounds".into(),
                Ended::Early(why) => why,
            },
            rounds: rounds.rounds,
            counts: rounds.counts,
            interrupts: rounds.interrupts,
            checks: rounds.checks,
            context,
            comparisons: Vec::new(),
        }
    }
}

/// What is in the results.
impl Results {
    /// The values of a subject in all rounds, by the name of a kind of work or of a moment.
    pub fn values(&self, subject: usize, work: &str) -> Vec<f64> {
        let turns = self.rounds.iter().filter_map(|turns| turns.get(subject));
        if let Some(moment) = Moment::named(work) {
            return turns.filter_map(|trial| trial.moments.of(moment)).collect();
        }
        let Some(kind) = self.works.iter().find(|kind| kind.name == work) else {
            return Vec::new();
        };
        turns
            .filter_map(|trial| trial.samples.iter().find(|sample| sample.work == work))
            .map(|sample| quantity::value(kind, sample))
            .collect()
    }

    /// The times of all reads of a subject, to two digits.
    pub fn latencies(&self, subject: usize, work: &str) -> Latencies {
        let mut times = Latencies::default();
        let turns = self.rounds.iter().filter_map(|turns| turns.get(subject));
        for sample in turns.flat_map(|trial| &trial.samples) {
            if sample.work == work {
                for (time, count) in &sample.histogram {
                    times.add_many(*time, *count);
                }
            }
        }
        times
    }

    /// The comparison of two subjects by one kind of work.
    pub fn comparison(&self, base: usize, other: usize, work: &str) -> Option<&Comparison> {
        let is_it = |c: &&Comparison| (c.base, c.other, c.work.as_str()) == (base, other, work);
        self.comparisons.iter().find(is_it)
    }

    /// The programs that were measured.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        let subjects = self.subjects.iter();
        let first = subjects.filter(|subject| subject.repeats.is_none());
        first.filter_map(|subject| match &subject.kind {
            Kind::MiniVmm {
                program,
                change: None,
            } => Some(program),
            _ => None,
        })
    }
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':'));
    name.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned())
}
