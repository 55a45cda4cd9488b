//! Makes RAM present, and maps it for the guest's devices, in parallel to the rest of the set-up.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::config::memory::{MemoryConfig, Pages};
use crate::guest_event::{GuestEvent, Notifier};
use crate::hostinfo::name::HostName;
use crate::machine::error::MachineError;
use crate::memory::dma::Dma;
use crate::memory::dma_ready::DmaReady;
use crate::memory::populate_throttle::{PopulatePause, PopulateThrottle};
use crate::memory::prefault;
use crate::memory::prefault::{Prefault, PrefaultError};
use crate::memory::ram::Ram;
use crate::vfio::open::candidate::Candidate;

/// The thread that prepares RAM, if the guest has a device, and its state for other threads.
pub(super) struct RamSetup {
    prefault: Option<Prefault>,
    ready: Arc<DmaReady>,
    throttle: Arc<PopulateThrottle>,
    /// Bytes that may still be unmapped when the guest starts.
    left_at_start: u64,
}

/// Makes the thread map RAM.
pub(super) struct RamMapper(Option<Sender<Arc<Dma>>>);

impl RamMapper {
    /// Makes the thread map RAM through `dma`.
    pub fn map(self, dma: &Arc<Dma>) {
        // If the thread has ended, `check` returns the reason.
        let _ = self.0.map(|sender| sender.send(Arc::clone(dma)));
    }
}

impl RamSetup {
    /// Starts the thread if there is a device: RAM is made present and mapped from now on, also
    /// while the guest runs. Without a device the kernel allocates a page when the guest touches
    /// it, unless the user wants all pages first (`prefault=on`).
    ///
    /// # Errors
    /// The host has no pages or threads left.
    pub fn start(
        ram: &Arc<Ram>,
        memory: &MemoryConfig,
        candidates: &[Candidate],
        notifier: &Arc<Notifier>,
    ) -> Result<Self, MachineError> {
        let throttle = Arc::new(PopulateThrottle::default());
        let mut prefault = None;
        if !candidates.is_empty() {
            let notifier = Arc::clone(notifier);
            let failed =
                move || notifier.notify(GuestEvent::Broken("its RAM is not mapped".into()));
            let populate = memory
                .prefault
                .unwrap_or_else(|| is_pinned_for_any(candidates));
            let throttle = Arc::clone(&throttle);
            prefault = Some(Prefault::start(
                Arc::clone(ram),
                populate,
                throttle,
                failed,
            )?);
        } else if memory.prefault == Some(true) {
            prefault::populate_all(ram)?;
        }
        let ready = prefault.as_ref().map(Prefault::ready);
        Ok(Self {
            prefault,
            ready: ready.unwrap_or_else(|| Arc::new(DmaReady::ready())),
            throttle,
            left_at_start: left_at_start(memory, candidates),
        })
    }

    /// The latch that opens when devices can reach all RAM. Without devices it is open from the
    /// start.
    pub fn ready(&self) -> Arc<DmaReady> {
        Arc::clone(&self.ready)
    }

    /// Pauses populating until the returned value is dropped; see [`PopulateThrottle`].
    pub fn pause(&self) -> PopulatePause {
        self.throttle.pause()
    }

    /// What makes the thread map RAM. Of use once.
    pub fn mapper(&mut self) -> RamMapper {
        RamMapper(self.prefault.as_mut().and_then(Prefault::mapper))
    }

    /// What [`RamSetup::pause`] uses, for another thread.
    pub fn throttle(&self) -> Arc<PopulateThrottle> {
        Arc::clone(&self.throttle)
    }

    /// Whether the guest may start before any RAM is mapped.
    pub fn starts_unmapped(&self) -> bool {
        let size = self.prefault.as_ref().map_or(0, Prefault::size);
        size <= self.left_at_start
    }

    /// Waits until the guest may start.
    ///
    /// # Errors
    /// The reason why RAM cannot be mapped.
    pub fn wait(&mut self) -> Result<(), PrefaultError> {
        let left = self.left_at_start;
        self.prefault.as_mut().map_or(Ok(()), |p| p.wait(left))
    }

    /// # Errors
    /// The reason why RAM cannot be mapped, if mapping has failed by now.
    pub fn check(&mut self) -> Result<(), PrefaultError> {
        self.prefault.as_mut().map_or(Ok(()), Prefault::check)
    }

    /// Ends the thread. Mapped RAM stays mapped.
    pub fn stop(&mut self) {
        self.prefault = None;
    }
}

/// Whether RAM is pinned for any of the devices. For a mediated device the kernel pins only the
/// pages that the device uses.
pub(super) fn is_pinned_for_any(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|c| !is_mediated(c))
}

fn is_mediated(candidate: &Candidate) -> bool {
    matches!(candidate.name(), HostName::Mediated(_))
}

/// How many bytes of RAM may still be unmapped when the guest starts.
///
/// A vCPU that enables bus mastering waits until all RAM is mapped. The wait must take no more than
/// a few seconds: Linux reports a soft lockup when a CPU does not respond for twenty seconds
/// (Documentation/admin-guide/lockup-watchdogs.rst). A mediated device is emulated by a program,
/// which may use memory before bus mastering is enabled. So with a mediated device all RAM is
/// mapped before the guest starts.
fn left_at_start(memory: &MemoryConfig, candidates: &[Candidate]) -> u64 {
    /// The limit with 4 KiB pages, and where the kernel allocates pages while it pins them.
    const SLOW: u64 = 1 << 30;
    const FAST: u64 = 8 << 30;
    match (memory.prefault, memory.pages) {
        (Some(true), _) => 0,
        _ if candidates.iter().any(is_mediated) => 0,
        (Some(false), _) | (_, Pages::Small) => SLOW,
        _ => FAST,
    }
}
