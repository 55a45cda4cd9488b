//! What the whole process gives up, before it has threads.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing::{debug, info};

use super::landlock::{self, Use};
use super::mode::{Choice, Mode};
use super::{refusal, thread};
use crate::log::degraded::{self, Code};
use crate::sys;

/// What a run needs of the host once it is confined.
#[derive(Debug, Default)]
pub struct Confinement {
    /// Files that the run reads, such as the kernel.
    pub read: Vec<PathBuf>,
    /// The folder of the socket for requests.
    pub socket: Option<PathBuf>,
    /// Whether memory is locked for devices, now or later.
    pub locks: bool,
    /// Whether another process maps the guest's memory (`shared=on`).
    pub shared: bool,
    /// Whether the run becomes another user's, who has no capability.
    pub changes_user: bool,
}

/// What the sandbox does not do yet, which is said at the start with `-v`.
pub const LIMITS: &str = "--sandbox on only forbids some calls to vmm-guardian and vmm-binder, \
                          which open and bind the run's devices, and the thread that adds devices \
                          opens files itself: see SECURITY.md";

/// Why a run cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel has no filters.
    #[error("this kernel cannot filter system calls, so --sandbox on and log do not work")]
    NoFilters(#[source] io::Error),
    /// A call that confines the process.
    #[error("the sandbox cannot be made: {call} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl SandboxError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::NoFilters(_) => {
                "run with --sandbox off, or use a kernel with CONFIG_SECCOMP_FILTER".into()
            }
            Self::Call { .. } => "run with --sandbox off".into(),
        }
    }
}

/// Whether this kernel can filter system calls. Without filters, a run whose user has chosen no
/// mode goes on without the sandbox, and tells that.
///
/// # Errors
/// The kernel cannot, and the user has chosen a mode that takes filters.
fn possible(choice: Choice) -> Result<Mode, SandboxError> {
    let mode = choice.wanted();
    if mode == Mode::Off {
        return Ok(mode);
    }
    match (has_filters(), choice) {
        (Ok(()), _) => Ok(mode),
        (Err(e), Choice::Given(_)) => Err(SandboxError::NoFilters(e)),
        (Err(e), Choice::Default) => {
            let what = "the sandbox is off";
            let why = format!("this kernel cannot filter system calls ({e})");
            degraded::tell(
                Code::NoSandbox.loss(what, why).hint(
                    "a kernel with CONFIG_SECCOMP_FILTER; with --sandbox off, this is not told",
                ),
            );
            Ok(Mode::Off)
        }
    }
}

/// Sets the mode of this process, of those that it forks ([`super::enter_helper`]) and of its
/// threads. `before_end` restores what a sudden end of the process does not; it must be
/// async-signal-safe. Returns the mode.
///
/// # Errors
/// The kernel lacks what the chosen mode needs.
pub fn begin(choice: Choice, before_end: fn()) -> Result<Mode, SandboxError> {
    let mode = possible(choice)?;
    if mode != Mode::Off {
        let call = "sigaction";
        refusal::catch(before_end).map_err(|source| SandboxError::Call { call, source })?;
        mode.set();
    }
    Ok(mode)
}

/// Confines the process, if [`begin`] was called with [`Mode::On`]. To be called while the process
/// has one thread, after it has forked the processes that open and bind devices.
///
/// # Errors
/// The kernel lacks what the mode needs.
pub fn prepare(run: &Confinement) -> Result<(), SandboxError> {
    let call = |call| move |source| SandboxError::Call { call, source };
    if Mode::current() == Mode::On {
        raise_memory_limit(run.locks, !run.changes_user);
        hide_memory(run.shared).map_err(call("prctl"))?;
        confine_files(run).map_err(call("landlock"))?;
        info!("{LIMITS}");
    }
    Ok(())
}

/// Whether filters may trap calls (seccomp(2), SECCOMP_GET_ACTION_AVAIL).
fn has_filters() -> io::Result<()> {
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads the number, which lives for the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel looks at CAP_IPC_LOCK at each map for DMA, and otherwise at the limit on locked
/// memory. A user who may lock any amount now may do so without the capability. Without
/// CAP_SYS_RESOURCE the limit stays, and a run with devices that `may_keep` it keeps CAP_IPC_LOCK.
pub(super) fn raise_memory_limit(locks: bool, may_keep: bool) {
    if !locks || sys::memlock_limit() == u64::MAX || !sys::may_lock_any(Path::new("/proc")) {
        return;
    }
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    match setrlimit(Resource::Memlock, none) {
        Ok(()) => {}
        Err(e) if may_keep => {
            info!(
                "sandbox: CAP_IPC_LOCK is kept: the limit on locked memory cannot be raised: {e}"
            );
            thread::keep_memory_lock();
        }
        // The check of locked memory says what lacks.
        Err(e) => debug!("the limit on locked memory cannot be raised: {e}"),
    }
}

/// No core file has the guest's memory, and no other process of the user reads it. A run that is
/// traced from its first instruction stays as it is, and so does one whose memory another process
/// opens.
fn hide_memory(shared: bool) -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    if shared || is_traced() {
        info!(
            "sandbox: other processes of this user can read this one: {}",
            if shared { "shared=on" } else { "it is traced" }
        );
        return Ok(());
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Whether a tracer has this process (proc_pid_status(5), TracerPid).
fn is_traced() -> bool {
    // The kernel writes the whole text for each read, and this line is among the first.
    let mut text = [0; 1024];
    let length = File::open("/proc/self/status").and_then(|mut file| file.read(&mut text));
    let read = text.get(..length.unwrap_or(0)).unwrap_or_default();
    let tracer = String::from_utf8_lossy(read);
    let tracer = tracer
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

/// Tells what of the sandbox this kernel lacks, before a run.
///
/// # Errors
/// The kernel lacks what the chosen mode needs.
pub fn explain(choice: Choice) -> Result<(), SandboxError> {
    if possible(choice)? == Mode::On {
        tell_missing();
    }
    Ok(())
}

/// Tells what this kernel's Landlock does not confine.
///
/// Without Landlock, the threads that may open files may open all of the user's. Each start says
/// that. What an older Landlock lacks (ioctls of nodes, moving and emptying files) the filters
/// refuse too. It is in `--stats` and in `explain`, and a start says it with `-v` alone: nobody
/// reads a warning that comes at each start on each host with Debian 12, whose kernel is 6.1.
fn tell_missing() {
    let abi = landlock::abi();
    let missing = landlock::missing(abi);
    if !missing.is_empty() {
        let what = format!("the sandbox does not confine {}", missing.join(", "));
        let why = match abi {
            None => "the kernel has no Landlock, or it is off".into(),
            Some(abi) => format!("the kernel's Landlock has ABI {abi}"),
        };
        let loss = Code::NoLandlock.loss(what, why).hint(
            "Linux 6.10 or newer with CONFIG_SECURITY_LANDLOCK, and landlock in the kernel's lsm= \
             parameter",
        );
        match abi {
            None => degraded::tell(loss),
            Some(_) => degraded::note(loss),
        }
    }
}

/// Confines opening to what the command line names, and to the host's facts.
fn confine_files(run: &Confinement) -> io::Result<()> {
    tell_missing();
    let Some(abi) = landlock::abi() else {
        return Ok(());
    };
    let read = ["/proc", "/sys", "/run/mini-vmm", "/etc/mini-vmm"].into_iter();
    let read = read.map(PathBuf::from).chain(run.read.iter().cloned());
    // None of these is a device: the other process opens the nodes of devices and of groups.
    let nodes = ["/dev/kvm", "/dev/vfio/vfio", "/dev/iommu"].map(PathBuf::from);
    let paths: Vec<_> = read
        .map(|path| (path, Use::Read))
        .chain(nodes.into_iter().map(|path| (path, Use::Device)))
        .chain(run.socket.iter().map(|path| (path.clone(), Use::Socket)))
        .collect();
    landlock::confine(abi, &paths)?;
    debug!("sandbox: Landlock's ABI {abi} confines which files are opened");
    Ok(())
}
