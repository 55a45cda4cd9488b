//! One run of a guest: bind what is managed, build the VM, wait for its end, report.

use std::sync::Arc;

use host::bind::BindError;
use host::managed::Managed;
use tracing::debug;
use vmm::boot::Images;
use vmm::config::VmConfig;
use vmm::console::{self, Console};
use vmm::lifecycle::{self, Lifecycle, Terminal};
use vmm::log::phases::Phases;
use vmm::log::stderr::say;
use vmm::machine::{Exit, Machine, MachineError};
use vmm::{phase, sys};

use crate::report::reporter::{ReportError, Reporter};

/// Why a run could not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A device could not be bound for the run.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The report cannot be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The VM could not be made or run.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl RunError {
    /// The remedy to type, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind(e) => e.hint(),
            Self::Report(e) => Some(e.hint()),
            Self::Machine(e) => e.hint(),
        }
    }
}

/// Runs the guest of `config` to its end, and reports what `phases` and the VM's counters say.
///
/// # Errors
/// A mistake of the user's, or a refusal of the host's. The host's devices are as they were before.
pub fn run(config: VmConfig, phases: Option<&Phases>) -> Result<Exit, RunError> {
    // SIGUSR1 ends a process by default. Until the main loop handles it, a request for a report
    // must not end the run.
    sys::process::ignore(libc::SIGUSR1);
    if let Err(e) = sys::raise_descriptor_limit() {
        debug!("the limit of open files stays: {e}");
    }
    if config.vfio.iter().any(|device| device.managed) {
        // A bad kernel file is refused before host drivers are unbound.
        Images::open(&config.kernel, config.initrd.as_deref()).map_err(MachineError::from)?;
    }
    let reporter = Reporter::open(&config.statistics, phases)?;
    // Forks, so this process must still have one thread. Dropped after the machine: the host gets
    // its devices back when the VM no longer uses them.
    let _managed = {
        let _phase = phase!("bind_devices");
        Managed::take(&config.vfio)?
    };
    let output = console::stdout().map_err(MachineError::Descriptors)?;
    let mut machine = Machine::new(config, Box::new(output))?;
    lifecycle::catch_signals().map_err(MachineError::Loop)?;
    let console = Console::new(machine.serial()).map_err(MachineError::Loop)?;
    let reporter = reporter.map(Arc::new);
    let (stats, on_request) = (machine.stats(), reporter.clone());
    let report = move || {
        say(format_args!("mini-vmm: {}", stats.exits));
        if let Some(reporter) = &on_request {
            reporter.report(&stats);
        }
    };
    let terminal = Terminal {
        console,
        report: Box::new(report),
    };
    let mut lifecycle =
        Lifecycle::new(machine.notifier(), Some(terminal)).map_err(MachineError::Loop)?;
    let end = machine.run(&mut lifecycle);
    if let Some(reporter) = reporter {
        reporter.report(&machine.stats());
    }
    Ok(end?)
}
