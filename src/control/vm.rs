//! What all answers are made of.

use std::sync::Arc;
use std::time::Instant;

use api::events::EventLog;
use vmm::control::Control;
use vmm::log::phases::Phases;
use vmm::stats::Stats;
use vmm::vfio::opener::Opener;

use crate::control::ids::Ids;
use crate::control::summary::VmSummary;

/// What the answers are made of.
pub struct Vm {
    /// The controls of the machine.
    pub control: Control,
    /// The counters of the run.
    pub stats: Arc<Stats>,
    /// The phases of the start, with `--stats`.
    pub phases: Option<Phases>,
    /// The configuration.
    pub summary: VmSummary,
    /// When the process began.
    pub started: Instant,
    /// The events of the run.
    pub log: Arc<EventLog>,
    /// What opens devices for a confined run, and learns from clients which.
    pub broker: Option<Arc<Opener>>,
    /// The names that clients have given to devices.
    pub ids: Arc<Ids>,
}
