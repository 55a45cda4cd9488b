//! vCPUs that run: a thread for each, and one that empties the ring of coalesced writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::coalesced::Coalesced;
use crate::guest_event::GuestEvent;
use crate::memory::dma_ready::DmaReady;
use crate::vcpu::Vcpu;
use crate::vcpu::error::VcpuError;
use crate::vcpu::exit_loop::LoopEnd;
use crate::vcpu::shared::Shared;

/// vCPUs that run, each on a thread of its own.
pub struct Running {
    stop: Arc<AtomicBool>,
    /// Set when no vCPU runs any more.
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vcpu>>,
    coalesced: Arc<Coalesced>,
    dma_ready: Arc<DmaReady>,
    /// Empties the ring of coalesced writes.
    server: Option<JoinHandle<()>>,
}

/// How long a thread may take to end before it is interrupted again.
const KICK_AGAIN: Duration = Duration::from_micros(200);

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // The signal only has to interrupt KVM_RUN.
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
            dma_ready: Arc::clone(&shared.dma_ready),
            server: None,
        };
        for vcpu in vcpus {
            let id = vcpu.id();
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

    /// Stops every vCPU and returns them. The writes that KVM still keeps are applied then: they
    /// belong to this boot, not to the next.
    ///
    /// A signal may arrive after a thread has looked at the flag, and before KVM_RUN or a write to
    /// an output that is full. It has no effect then, so it is sent again until the thread has
    /// ended.
    ///
    /// # Errors
    /// [`VcpuError::Died`].
    pub fn stop(&mut self) -> Result<Vec<Vcpu>, VcpuError> {
        self.coalesced.set_stopping(true);
        self.dma_ready.set_stopping(true);
        self.stop.store(true, Ordering::Release);
        while self.kick() {
            thread::sleep(KICK_AGAIN);
        }
        self.ended.store(true, Ordering::Release);
        while self.kick_server() {
            thread::sleep(KICK_AGAIN);
        }
        self.coalesced.set_stopping(false);
        self.dma_ready.set_stopping(false);
        self.server
            .take()
            .map_or(Ok(()), JoinHandle::join)
            .map_err(|_| VcpuError::Died)?;
        self.threads
            .drain(..)
            .map(|t| t.join().map_err(|_| VcpuError::Died))
            .collect()
    }

    /// Interrupts all threads; returns whether the thread of a vCPU has not ended yet. That thread
    /// may be waiting for the server, which is therefore interrupted as well.
    fn kick(&self) -> bool {
        let mut running = false;
        // Sending fails only if the thread has ended meanwhile.
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

/// The thread of a vCPU. Unless the vCPU was asked to stop, the main loop is told why it has
/// stopped.
fn body(mut vcpu: Vcpu, shared: &Shared, stop: &AtomicBool) -> Vcpu {
    let event = match vcpu.run(shared, stop) {
        LoopEnd::Stopped => return vcpu,
        LoopEnd::Shutdown => GuestEvent::TripleFault,
        LoopEnd::Broken(why) => GuestEvent::Broken(format!("vCPU {}: {why}", vcpu.id())),
    };
    shared.notifier.notify(event);
    vcpu
}
