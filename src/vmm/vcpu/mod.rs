//! vCPUs: making them, starting and stopping their threads, resetting them.

pub mod cpuid;
pub mod exit_loop;
pub mod pin;
mod run_page;
mod shared;
pub mod state;
mod tsc;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use exit_loop::LoopEnd;
use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
pub use shared::{LostPages, Shared};
use state::PowerOn;
use tracing::warn;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::boot::cpu_state::CpuState;
use crate::coalesced::Coalesced;
use crate::guest_event::GuestEvent;
use crate::log::phases::FIRST_RUN;
use crate::memory::gate::Gate;
use crate::phase;

/// Why a vCPU cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// An ioctl failed.
    #[error("{name} failed")]
    Call {
        /// The ioctl.
        name: &'static str,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// More MSRs than a call can name.
    #[error("too many MSRs")]
    Msrs,
    /// A thread could not be started.
    #[error("cannot start a thread for vCPU {0}")]
    Thread(u32, #[source] io::Error),
    /// The same, for the thread beside the vCPUs.
    #[error("cannot start a thread for coalesced writes")]
    Server(#[source] io::Error),
    /// The CPUID leaves cannot be made.
    #[error(transparent)]
    Cpuid(#[from] cpuid::CpuidError),
    /// No handler for the kick.
    #[error("cannot install the handler of the signal that stops vCPUs")]
    Signal(#[source] vmm_sys_util::errno::Error),
    /// A vCPU's thread is gone.
    #[error("the thread of a vCPU died")]
    Died,
    /// A host CPU that this process cannot run on.
    #[error("no vCPU can be pinned to host CPU {cpu}")]
    Pin {
        /// Its number.
        cpu: usize,
        /// Those that can be used, as a list.
        usable: String,
        /// The errno.
        source: io::Error,
    },
}

impl VcpuError {
    /// What to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Call { source, .. } if source.errno() == libc::EMFILE => {
                Some("raise the limit with `ulimit -n`".into())
            }
            Self::Pin { usable, .. } => Some(format!("name host CPUs of pin={usable}")),
            _ => None,
        }
    }
}

/// Bits of a guest-physical address, from leaf 0x8000_0008 of what KVM supports.
pub fn phys_bits(supported: &CpuId) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let leaf = supported
        .as_slice()
        .iter()
        .find(|e| e.function == ADDRESS_SIZES);
    // Processors without the leaf have 36 bits (SDM volume 2A, CPUID).
    leaf.map_or(36, |e| e.eax as u8)
}

/// A vCPU that is not running.
pub struct Vcpu {
    id: u32,
    fd: VcpuFd,
    /// Kilobytes, which would otherwise be moved from stack to stack.
    power_on: Box<PowerOn>,
    /// The host CPU that it runs on.
    pin: Option<usize>,
}

impl Vcpu {
    /// Makes vCPU `id` with these CPUID leaves, as firmware would leave it: vCPU 0 lacks its
    /// [entry](Self::enter), the others wait for their start-up IPI. KVM knows it by its APIC id. `msrs`
    /// are those that a reset must restore; `pin` is the host CPU that it shall run on.
    ///
    /// # Errors
    /// The call that failed.
    pub fn new(
        vm: &VmFd,
        (id, apic_id): (u32, u8),
        cpuid: impl FnOnce(&VcpuFd) -> Result<CpuId, VcpuError>,
        msrs: &[u32],
        pin: Option<usize>,
    ) -> Result<Self, VcpuError> {
        let call = |name| move |source| VcpuError::Call { name, source };
        let fd = vm
            .create_vcpu(apic_id.into())
            .map_err(call("KVM_CREATE_VCPU"))?;
        let cpuid = cpuid(&fd)?;
        fd.set_cpuid2(&cpuid).map_err(call("KVM_SET_CPUID2"))?;
        let power_on = Box::new(PowerOn::read(&fd, msrs)?);
        power_on.set_up(&fd)?;
        Ok(Self {
            id,
            fd,
            power_on,
            pin,
        })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// As it was when it was made.
    ///
    /// # Errors
    /// The call that failed.
    pub fn reset(&self) -> Result<(), VcpuError> {
        self.power_on.write(&self.fd)
    }

    /// The state that the kernel's entry asks for: for vCPU 0, made or reset just before.
    ///
    /// # Errors
    /// The call that failed.
    pub fn enter(&self, boot: &CpuState) -> Result<(), VcpuError> {
        self.power_on.enter(&self.fd, boot)
    }
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// vCPUs that run, each on a thread.
pub struct Running {
    stop: Arc<AtomicBool>,
    /// No vCPU runs any more.
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vcpu>>,
    coalesced: Arc<Coalesced>,
    gate: Arc<Gate>,
    server: Option<JoinHandle<()>>,
}

/// How long until a thread that has not ended is interrupted again.
const KICK_AGAIN: Duration = Duration::from_micros(200);

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Being interrupted is all that a vCPU needs.
}

impl Running {
    /// Starts a thread for each vCPU.
    ///
    /// # Errors
    /// When the host has no threads left; those started are stopped again.
    pub fn start(vcpus: Vec<Vcpu>, shared: &Shared) -> Result<Self, VcpuError> {
        static HANDLER: Once = Once::new();
        let mut outcome = Ok(());
        HANDLER.call_once(|| outcome = register_signal_handler(SIGRTMIN(), on_kick));
        outcome.map_err(VcpuError::Signal)?;

        let mut running = Self {
            stop: Arc::default(),
            ended: Arc::default(),
            threads: Vec::new(),
            coalesced: Arc::clone(&shared.coalesced),
            gate: Arc::clone(&shared.gate),
            server: None,
        };
        for vcpu in vcpus {
            let id = vcpu.id;
            let (shared, stop) = (shared.clone(), Arc::clone(&running.stop));
            let thread = thread::Builder::new()
                .name(format!("vcpu {id}"))
                .spawn(move || body(vcpu, &shared, &stop));
            match thread {
                Ok(thread) => running.threads.push(thread),
                Err(e) => {
                    let _ = running.stop();
                    return Err(VcpuError::Thread(id, e));
                }
            }
        }
        let (coalesced, ended) = (Arc::clone(&shared.coalesced), Arc::clone(&running.ended));
        let server = thread::Builder::new()
            .name("coalesced".into())
            .spawn(move || coalesced.serve(&ended));
        match server {
            Ok(server) => running.server = Some(server),
            Err(e) => {
                let _ = running.stop();
                return Err(VcpuError::Server(e));
            }
        }
        Ok(running)
    }

    /// Stops every vCPU and gives them back; then what the guest wrote last is done, as it is its own
    /// and not the next boot's.
    ///
    /// A signal may arrive between a thread's look at the flag and its KVM_RUN, or its write to an output
    /// that is full, and be lost there; so it is sent again until the thread has ended.
    ///
    /// # Errors
    /// [`VcpuError::Died`].
    pub fn stop(&mut self) -> Result<Vec<Vcpu>, VcpuError> {
        self.coalesced.set_stopping(true);
        self.gate.set_stopping(true);
        self.stop.store(true, Ordering::Release);
        while self.kick() {
            thread::sleep(KICK_AGAIN);
        }
        self.ended.store(true, Ordering::Release);
        while self.kick_server() {
            thread::sleep(KICK_AGAIN);
        }
        self.coalesced.set_stopping(false);
        self.gate.set_stopping(false);
        self.server
            .take()
            .map_or(Ok(()), JoinHandle::join)
            .map_err(|_| VcpuError::Died)?;
        self.threads
            .drain(..)
            .map(|t| t.join().map_err(|_| VcpuError::Died))
            .collect()
    }

    /// Interrupts all threads; tells whether a vCPU's has not ended yet. Such a one may wait for the
    /// server.
    fn kick(&self) -> bool {
        let mut running = false;
        // A thread that has ended meanwhile needs no signal.
        for thread in self.threads.iter().filter(|t| !t.is_finished()) {
            let _ = thread.kill(SIGRTMIN());
            running = true;
        }
        self.kick_server();
        running
    }

    fn kick_server(&self) -> bool {
        let Some(server) = self.server.as_ref().filter(|t| !t.is_finished()) else {
            return false;
        };
        server.thread().unpark();
        let _ = server.kill(SIGRTMIN());
        true
    }
}

fn body(mut vcpu: Vcpu, shared: &Shared, stop: &AtomicBool) -> Vcpu {
    if let Some(cpu) = vcpu.pin
        && let Err(e) = pin::pin(cpu)
    {
        // It could when the run began: the host has taken the CPU away since.
        warn!("vCPU {} is not pinned to host CPU {cpu}: {e}", vcpu.id);
    }
    let Some(exits) = shared.exits.vcpus().get(vcpu.id as usize) else {
        let why = format!("vCPU {} has no counters", vcpu.id);
        shared.notifier.notify(GuestEvent::Broken(why));
        return vcpu;
    };
    if vcpu.id == 0 {
        drop(phase!(FIRST_RUN));
    }
    match exit_loop::run(&mut vcpu.fd, shared, exits, stop) {
        LoopEnd::Stopped => {}
        LoopEnd::Shutdown => shared.notifier.notify(GuestEvent::TripleFault),
        LoopEnd::Broken(why) => {
            shared
                .notifier
                .notify(GuestEvent::Broken(format!("vCPU {}: {why}", vcpu.id)));
        }
    }
    vcpu
}
