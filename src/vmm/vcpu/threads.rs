//! Running vCPUs: a thread for each vCPU, and a thread that empties the ring of coalesced writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::guest_event::GuestEvent;
use crate::memory::dma_ready::DmaReady;
use crate::sandbox::{self, Confined, Kind, Mode};
use crate::vcpu::Vcpu;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::error::VcpuError;
use crate::vcpu::exit_loop::LoopEnd;
use crate::vcpu::pause::PausePoint;
use crate::vcpu::shared::Shared;

/// Running vCPUs, each on a thread of its own.
pub struct Running {
    pause: Arc<PausePoint>,
    /// Set when all vCPUs have stopped.
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vcpu>>,
    dma_ready: Arc<DmaReady>,
    devices_open: Arc<DevicesOpen>,
    /// Empties the ring of coalesced writes.
    server: Option<JoinHandle<()>>,
}

/// The time after which a thread that has not ended is interrupted again.
const KICK_AGAIN: Duration = Duration::from_micros(200);

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // The signal only has to interrupt KVM_RUN.
}

impl Running {
    /// Starts a thread for each vCPU.
    ///
    /// # Errors
    /// The host has no threads left. The started threads are stopped again.
    pub fn start(vcpus: Vec<Vcpu>, shared: &Shared) -> Result<Self, VcpuError> {
        static HANDLER: Once = Once::new();
        let mut outcome = Ok(());
        HANDLER.call_once(|| outcome = register_signal_handler(SIGRTMIN(), on_kick));
        outcome.map_err(VcpuError::Signal)?;
        shared.pause.begin();

        let mut running = Self {
            pause: Arc::clone(&shared.pause),
            ended: Arc::default(),
            threads: Vec::new(),
            dma_ready: Arc::clone(&shared.dma_ready),
            devices_open: Arc::clone(&shared.devices_open),
            server: None,
        };
        if let Err(e) = running.start_threads(vcpus, shared) {
            // The first error is reported.
            let _ = running.stop();
            return Err(e);
        }
        let (coalesced, ended) = (Arc::clone(&shared.coalesced), Arc::clone(&running.ended));
        let server = thread::Builder::new()
            .name("coalesced".into())
            .spawn(move || {
                sandbox::enter(Kind::Coalesced);
                coalesced.serve(&ended);
            });
        match server {
            Ok(server) => running.server = Some(server),
            Err(e) => {
                // The first error is reported.
                let _ = running.stop();
                return Err(VcpuError::Server(e));
            }
        }
        Ok(running)
    }

    /// Starts the threads of the vCPUs. A filter costs as much for each thread that installs it as
    /// starting the thread, so several vCPUs inherit theirs: from a thread that is confined as a
    /// vCPU, starts them, and ends.
    fn start_threads(&mut self, vcpus: Vec<Vcpu>, shared: &Shared) -> Result<(), VcpuError> {
        if vcpus.len() == 1 || Mode::current() == Mode::Off {
            return start_each(vcpus, shared, None, &mut self.threads);
        }
        let threads = &mut self.threads;
        thread::scope(|scope| {
            let starter = thread::Builder::new().name("vcpus".into());
            let starter = starter.spawn_scoped(scope, || {
                let confined = sandbox::enter(Kind::Vcpu);
                start_each(vcpus, shared, Some(confined), threads)
            });
            let starter = starter.map_err(|e| VcpuError::Thread(0, e))?;
            starter.join().map_err(|_| VcpuError::Died)?
        })
    }

    /// Stops all vCPUs and returns them. Once the vCPUs have stopped, the coalesced writes that are
    /// still in KVM's ring are carried out, because they belong to this boot.
    ///
    /// A signal is meant to interrupt KVM_RUN. The signal is lost if it arrives just before that
    /// call, when the thread has already read the flag. So the signal is sent again until
    /// the thread has ended.
    ///
    /// # Errors
    /// [`VcpuError::Died`].
    pub fn stop(&mut self) -> Result<Vec<Vcpu>, VcpuError> {
        // The pause comes first: a vCPU that is released from a wait must leave its loop at once.
        self.pause.stop();
        self.dma_ready.set_stopping(true);
        self.devices_open.set_stopping(true);
        while self.kick() {
            thread::sleep(KICK_AGAIN);
        }
        self.ended.store(true, Ordering::Release);
        while self.kick_server() {
            thread::sleep(KICK_AGAIN);
        }
        self.dma_ready.set_stopping(false);
        self.devices_open.set_stopping(false);
        self.server
            .take()
            .map_or(Ok(()), JoinHandle::join)
            .map_err(|_| VcpuError::Died)?;
        self.threads
            .drain(..)
            .map(|t| t.join().map_err(|_| VcpuError::Died))
            .collect()
    }

    /// Interrupts the threads of the vCPUs; returns whether one of them is still running.
    fn kick(&self) -> bool {
        let mut running = false;
        // Sending fails only if the thread has ended meanwhile.
        for thread in self.threads.iter().filter(|t| !t.is_finished()) {
            let _ = thread.kill(SIGRTMIN());
            running = true;
        }
        running
    }

    /// Wakes the thread that empties the ring; returns whether it is still running.
    fn kick_server(&self) -> bool {
        let Some(server) = self.server.as_ref().filter(|t| !t.is_finished()) else {
            return false;
        };
        server.thread().unpark();
        true
    }
}

/// Starts a thread for each vCPU. The threads confine themselves, unless the calling thread has
/// done that for them.
fn start_each(
    vcpus: Vec<Vcpu>,
    shared: &Shared,
    confined: Option<Confined>,
    threads: &mut Vec<JoinHandle<Vcpu>>,
) -> Result<(), VcpuError> {
    for vcpu in vcpus {
        let id = vcpu.id();
        let shared = shared.clone();
        let thread = thread::Builder::new().name(format!("vcpu {id}"));
        let thread = thread.spawn(move || {
            match confined {
                Some(confined) => confined.inherit(),
                None => _ = sandbox::enter(Kind::Vcpu),
            }
            body(vcpu, &shared)
        });
        threads.push(thread.map_err(|e| VcpuError::Thread(id, e))?);
    }
    Ok(())
}

/// The body of a vCPU's thread. If the vCPU stops without being asked to, the main loop gets the
/// reason.
fn body(mut vcpu: Vcpu, shared: &Shared) -> Vcpu {
    let _member = shared.pause.join();
    vcpu.prepare_thread();
    let end = run(&mut vcpu, shared);
    vcpu.complete();
    let event = match end {
        LoopEnd::Stopped => return vcpu,
        LoopEnd::Shutdown => GuestEvent::TripleFault,
        LoopEnd::Refused(errno) => GuestEvent::RunRefused(vcpu.id(), errno),
        LoopEnd::Broken(why) => GuestEvent::Broken(format!("vCPU {}: {why}", vcpu.id())),
    };
    shared.notifier.notify(event);
    vcpu
}

/// Runs a vCPU, and waits while the guest is paused.
fn run(vcpu: &mut Vcpu, shared: &Shared) -> LoopEnd {
    loop {
        match vcpu.run(shared, shared.pause.leave()) {
            LoopEnd::Stopped if shared.pause.wait() => vcpu.tell_paused(),
            end => return end,
        }
    }
}
