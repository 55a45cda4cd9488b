//! A run of a guest: binds the devices with `managed=on`, creates the VM, waits for its end, and
//! writes the report.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::events::EventLog;
use api::witness::Door;
use host::bind::{BindError, Host, check_calls, note_call_or_say};
use host::binder::Binder;
use host::managed::{Managed, Rights, must_ask};
use rustix::process::geteuid;
use tracing::debug;
use vmm::boot::Images;
use vmm::broker::{Admission, Nobody, RunUser};
use vmm::config::VmConfig;
use vmm::config::device::RomConfig;
use vmm::console::{self, Console};
use vmm::lifecycle::{self, Lifecycle, Terminal};
use vmm::log::phases::Phases;
use vmm::log::stderr::say;
use vmm::machine::{Exit, Machine, MachineError};
use vmm::sandbox::run_as::{RunAs, RunAsError};
use vmm::sandbox::{self, Choice, Confinement, Kind, Mode, SandboxError};
use vmm::vfio::kernel_calls;
use vmm::vfio::opener::Opener;
use vmm::{phase, sys};

use crate::api_socket::ApiSocket;
use crate::control::clients::Clients;
use crate::control::summary::VmSummary;
use crate::control::vm::Vm;
use crate::control::{self, ControlError};
use crate::handover::{self, HandoverError};
use crate::report::reporter::{ReportError, Reporter};

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A device could not be bound for the run.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The report cannot be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The run cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The run cannot become another user's.
    #[error(transparent)]
    RunAs(#[from] RunAsError),
    /// A file cannot be given to the run's user.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// The socket for requests cannot be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The VM could not be created or failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl RunError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind(e) => e.hint(),
            Self::Report(e) => Some(e.hint()),
            Self::Sandbox(e) => Some(e.hint()),
            Self::RunAs(e) => Some(e.hint()),
            Self::Handover(e) => Some(e.hint()),
            Self::Control(e) => Some(e.hint()),
            Self::Machine(e) => e.hint(),
        }
    }
}

/// Runs the guest of `config` to its end, and reports `phases` and the VM's counters. `host_limit`:
/// how long a call of the host's kernel may take for a device with `managed=on`. `sandbox`: what
/// the threads may do, and whose the process is. `api_socket`: the socket that takes requests.
///
/// # Errors
/// The user made a mistake, or the host refused a request. The host's devices are in their earlier
/// state.
pub fn run(
    mut config: VmConfig,
    (host_limit, sandbox, run_as): (Duration, Choice, Option<&RunAs>),
    api_socket: ApiSocket,
    phases: Option<&Phases>,
) -> Result<Exit, RunError> {
    let started = Instant::now();
    // SIGUSR1 ends a process by default. A request for a report must not end the run before the
    // main loop handles the signal.
    sys::process::ignore(libc::SIGUSR1);
    if let Err(e) = sys::raise_descriptor_limit() {
        debug!("the limit of open files stays: {e}");
    }
    check_files(&config, run_as)?;
    // A socket that is in use is an error before the run takes anything from the host.
    api_socket.check().map_err(ControlError::from)?;
    let summary = VmSummary::new(&config);
    // So are all mistakes in what another user gets.
    let report = run_as.map(|user| handover::hand_over(user, &mut config, &api_socket));
    let report = report.transpose()?.flatten();
    let reporter = Reporter::open(&config.statistics, phases, report)?;
    let confined = sandbox::begin(sandbox, console::restore)?;
    // `managed` is dropped after the machine: the host gets its devices back when the VM no longer
    // uses them.
    let apart = confined == Mode::On || run_as.is_some();
    let (managed, opener) = take(&config, host_limit, (confined, run_as), &api_socket)?;
    let binder = managed.as_ref().and_then(Managed::binder);
    let _calls = Calls(Arc::clone(&opener), binder.clone());
    // The other processes are there, and this one has no other thread yet.
    confine(&config, &api_socket, run_as)?;
    if apart {
        kernel_calls::look_by(&opener);
    }
    sys::bus_error::catch(console::restore).map_err(MachineError::Loop)?;
    let output = console::stdout().map_err(MachineError::Descriptors)?;
    let broker = apart.then(|| Arc::clone(&opener));
    let mut machine = Machine::with_opener(config, Box::new(output), opener)?;
    if let Some(binder) = binder {
        machine.set_claims(binder);
    }
    lifecycle::catch_signals().map_err(MachineError::Loop)?;
    let mut console = Console::new(machine.serial()).map_err(MachineError::Loop)?;
    console.set_power_button(machine.power_button());
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
    // The socket is there from now on: signals no longer end the process without removing it.
    let server = match api_socket.listen().map_err(ControlError::from)? {
        None => None,
        Some(listener) => {
            let asker = lifecycle.asker().map_err(MachineError::Loop)?;
            let vm = Vm {
                control: machine.control(asker),
                stats: machine.stats(),
                phases: phases.cloned(),
                summary,
                started,
                log: Arc::new(EventLog::new().map_err(ControlError::Start)?),
                broker,
                ids: Arc::default(),
            };
            Some(control::serve(listener, vm)?)
        }
    };
    sandbox::enter(Kind::Main);
    let end = machine.run(&mut lifecycle);
    // Before the devices are closed: an answer may use them.
    drop(server);
    if let Some(reporter) = reporter {
        reporter.report(&machine.stats());
    }
    let end = end?;
    machine.close()?;
    Ok(end)
}

/// A bad kernel file is refused before a host driver is unbound, and so is one that the run's user
/// may not read.
fn check_files(config: &VmConfig, run_as: Option<&RunAs>) -> Result<(), RunError> {
    if !config.vfio.iter().any(|device| device.managed) {
        return Ok(());
    }
    let check = || Images::open(&config.kernel, config.initrd.as_deref()).map(drop);
    let outcome = match run_as {
        Some(user) => user.try_as(check)?,
        None => check(),
    };
    Ok(outcome.map_err(MachineError::from)?)
}

/// Binds the devices with `managed=on`, and starts the processes that open and bind devices. That
/// forks, so this process must still have a single thread. A device for which a call of an earlier
/// run sleeps is refused.
fn take(
    config: &VmConfig,
    host_limit: Duration,
    (confined, run_as): (Mode, Option<&RunAs>),
    api_socket: &ApiSocket,
) -> Result<(Option<Managed>, Arc<Opener>), RunError> {
    let _phase = phase!("bind_devices");
    let rights = match (run_as, confined) {
        (Some(user), _) => Rights::Users(RunUser::new(user.credentials())),
        (None, Mode::On) => Rights::Own,
        (None, Mode::Off | Mode::Log) => Rights::Any,
    };
    // Without the sandbox, the run binds and notes for itself.
    let by_others = rights != Rights::Any || confined != Mode::Off;
    let later =
        config.ports.count > 0 || api_socket.is_wanted() || (by_others && !config.vfio.is_empty());
    let addresses = config.vfio.iter().map(|device| &*device.address);
    check_calls(&Host::default(), addresses)?;
    let clients = clients(api_socket, run_as).map_err(ControlError::Start)?;
    Ok(Managed::take(
        &config.vfio,
        host_limit,
        (later, rights),
        clients,
    )?)
}

/// Confines this process, and makes it another user's.
fn confine(
    config: &VmConfig,
    api_socket: &ApiSocket,
    run_as: Option<&RunAs>,
) -> Result<(), RunError> {
    let confinement = confinement(config, api_socket, run_as);
    sandbox::prepare(&confinement)?;
    if let Some(user) = run_as {
        user.enter(confinement.locks, confinement.shared)?;
    }
    Ok(())
}

/// Who names devices while the guest runs.
fn clients(api_socket: &ApiSocket, run_as: Option<&RunAs>) -> io::Result<Arc<dyn Admission>> {
    let clients = |address| {
        Clients::by(Door {
            address,
            user: run_as.map_or_else(|| geteuid().as_raw(), |user| user.uid),
            server: std::process::id(),
        })
    };
    Ok(match api_socket.address()? {
        Some(address) => Arc::new(clients(address)),
        None => Arc::new(Nobody),
    })
}

/// What a confined run opens once it has begun.
fn confinement(config: &VmConfig, api_socket: &ApiSocket, run_as: Option<&RunAs>) -> Confinement {
    let roms = config.vfio.iter().filter_map(|device| match &device.rom {
        RomConfig::File(path) => Some(path.clone()),
        RomConfig::Device | RomConfig::Off => None,
    });
    let images = [Some(config.kernel.clone()), config.initrd.clone()];
    Confinement {
        read: images.into_iter().flatten().chain(roms).collect(),
        socket: api_socket.folder(),
        locks: !config.vfio.is_empty() || config.ports.count > 0,
        shared: config.memory.shared,
        changes_user: run_as.is_some(),
    }
}

/// The calls for devices that go on after the run. They are noted when the value is dropped, so
/// that the next command finds them. A confined run lets the other process note them.
struct Calls(Arc<Opener>, Option<Arc<Binder>>);

impl Drop for Calls {
    fn drop(&mut self) {
        for waiting in self.0.given_up() {
            let Some(caller) = waiting.caller else {
                continue;
            };
            let (host, device) = (Host::default(), &waiting.device);
            let message = match &self.1 {
                Some(binder) if must_ask() => binder.note(device, waiting.call, caller),
                _ => note_call_or_say(&host, device, waiting.call, caller),
            };
            if let Some(message) = message {
                say(format_args!("mini-vmm: {message}"));
            }
        }
    }
}
