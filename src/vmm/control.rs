//! What a user may ask of a running VM, and what the user is told.
//!
//! Any thread may ask. A request that changes the VM returns when the change is made, which may
//! take seconds; what is read takes no lock that a change keeps.

use std::io;
use std::sync::{Arc, Weak};

use pci::{Bdf, PciFunction, RootBus};

use crate::devices::power_button::PowerButton;
use crate::exit::Exit;
use crate::gsi::routing::GsiRouting;
use crate::lifecycle::Asker;
use crate::memory::dma::DmaMap;
use crate::memory::kvm_slots::KvmSlots;
use crate::plug::{AddError, AddRequest, Added, HotPlug, Removal, RemoveError, RemoveRequest};
use crate::run_events::{RunEvent, RunEvents};
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::pause::{PauseError, PausePoint};
use crate::vfio::function::VfioFunction;

/// A change of a running VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// Stop the vCPUs. Devices go on: their DMA reaches guest memory, and their interrupts gather.
    Pause,
    /// Let the vCPUs go on.
    Resume,
    /// Reset the VM and its devices, and boot again; the vCPUs run afterwards. With `--no-reboot`
    /// the run ends.
    Reboot,
    /// Press the power button: the guest's system shuts down if it listens.
    PowerButton,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The vCPUs are not in the state that the change needs, or do not reach the wanted one.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// The power button's interrupt is not raised.
    #[error("the power button cannot be pressed")]
    PowerButton(#[source] io::Error),
    /// The run is over.
    #[error("the run has ended")]
    Ended,
}

impl ControlError {
    /// The remedy, most often a command to type.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Pause(PauseError::AlreadyPaused) => {
                Some("let it go on: mini-vmm ctl PATH resume")
            }
            Self::Pause(PauseError::NotPaused) => Some("pause it first: mini-vmm ctl PATH pause"),
            Self::Pause(PauseError::Busy(_)) => {
                Some("try again; the vCPUs wait for a reset of a device, or for memory")
            }
            Self::Pause(PauseError::Ended) | Self::PowerButton(_) | Self::Ended => None,
        }
    }

    /// Whether the VM's state does not allow the change, as opposed to a change that failed.
    pub fn is_state(&self) -> bool {
        use PauseError::{AlreadyPaused, NotPaused};
        matches!(self, Self::Pause(AlreadyPaused | NotPaused))
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// The vCPUs run, or are being started.
    Running,
    /// The vCPUs have stopped; devices go on.
    Paused,
    /// The run is over.
    Ended,
}

/// The parts of a machine that its controls share with its boots.
#[derive(Clone)]
pub(crate) struct RunControls {
    pub pause: Arc<PausePoint>,
    pub events: Arc<RunEvents>,
    /// Whether the devices are open with which the guest begins.
    pub devices_open: Arc<DevicesOpen>,
}

impl Default for RunControls {
    fn default() -> Self {
        let pause = Arc::default();
        Self {
            devices_open: Arc::new(DevicesOpen::new(&pause)),
            events: Arc::default(),
            pause,
        }
    }
}

impl RunControls {
    /// The run is over.
    pub fn end<E>(&self, end: &Result<Exit, E>) {
        self.events
            .end(end.as_ref().map_or("error", |exit| exit.name()));
    }
}

/// The controls of one machine.
#[derive(Clone)]
pub struct Control {
    pub(crate) run: RunControls,
    pub(crate) asker: Asker,
    pub(crate) power_button: Arc<PowerButton>,
    pub(crate) plug: Weak<dyn HotPlug>,
    pub(crate) root: Weak<RootBus>,
    pub(crate) slots: Weak<KvmSlots>,
    pub(crate) routing: Weak<GsiRouting>,
}

/// What of KVM's a VM uses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Memory slots.
    pub memory_slots: usize,
    /// Interrupts for messages.
    pub gsis: usize,
}

impl Control {
    /// The state of the run.
    pub fn state(&self) -> RunState {
        match (self.run.events.ended(), self.run.pause.is_paused()) {
            (Some(_), _) => RunState::Ended,
            (None, true) => RunState::Paused,
            (None, false) => RunState::Running,
        }
    }

    /// What has happened in the run.
    pub fn events(&self) -> &RunEvents {
        &self.run.events
    }

    /// The passed-through functions with their addresses in the guest, without those that have been
    /// removed.
    pub fn functions(&self) -> Vec<(Bdf, Arc<VfioFunction>)> {
        let plug = self.plug.upgrade();
        plug.map_or_else(Vec::new, |plug| plug.functions())
    }

    /// The functions of the VMM on bus 0, such as the host bridge and root ports: address and the
    /// first bytes of configuration space.
    pub fn emulated(&self) -> Vec<(Bdf, [u8; 64])> {
        let passed: Vec<Bdf> = self.functions().iter().map(|(bdf, _)| *bdf).collect();
        let Some(root) = self.root.upgrade() else {
            return Vec::new();
        };
        let slots = (0..32).flat_map(|device| (0..8).map(move |function| (device, function)));
        let here = slots.filter_map(|(device, function)| {
            let bdf = Bdf {
                segment: 0,
                bus: 0,
                device,
                function,
            };
            let found = root.get(device, function)?;
            (!passed.contains(&bdf)).then(|| (bdf, header_of(&*found)))
        });
        here.collect()
    }

    /// What of KVM's the VM uses now.
    pub fn in_use(&self) -> InUse {
        let slots = self.slots.upgrade();
        let routing = self.routing.upgrade();
        InUse {
            memory_slots: slots.map_or(0, |slots| slots.in_use()),
            gsis: routing.map_or(0, |routing| routing.in_use()),
        }
    }

    /// What devices reach by DMA.
    pub fn dma_maps(&self) -> Vec<DmaMap> {
        let plug = self.plug.upgrade();
        plug.map_or_else(Vec::new, |plug| plug.dma_maps())
    }

    /// Adds a device. Returns when the guest has been told of it. `gone` says whether nobody waits
    /// for the device any more.
    ///
    /// # Errors
    /// The reason, after everything was undone.
    pub fn add(&self, request: &AddRequest, gone: &dyn Fn() -> bool) -> Result<Added, AddError> {
        let plug = self.plug.upgrade().ok_or(AddError::Ended)?;
        plug.add(request, gone)
    }

    /// Asks the guest for a device, or takes it away. `gone` says whether nobody waits for that any
    /// more.
    ///
    /// # Errors
    /// The reason; the device stays.
    pub fn remove(
        &self,
        request: &RemoveRequest,
        gone: &dyn Fn() -> bool,
    ) -> Result<Removal, RemoveError> {
        let plug = self.plug.upgrade().ok_or(RemoveError::Ended)?;
        plug.remove(request, gone)
    }

    /// Makes a change, and returns when it is made.
    ///
    /// # Errors
    /// The VM's state does not allow the change, or the change has failed.
    pub fn change(&self, request: ControlRequest) -> Result<(), ControlError> {
        if self.run.events.ended().is_some() {
            return Err(ControlError::Ended);
        }
        match request {
            ControlRequest::Pause => self.pause()?,
            ControlRequest::Resume => self.resume()?,
            ControlRequest::Reboot => self.reboot()?,
            ControlRequest::PowerButton => {
                self.power_button
                    .press()
                    .map_err(ControlError::PowerButton)?;
            }
        }
        Ok(())
    }

    /// Ends the run, as SIGTERM does, paused or not. Returns at once, and cannot be refused.
    pub fn shut_down(&self) {
        self.asker.shut_down();
    }

    fn pause(&self) -> Result<(), PauseError> {
        self.run.pause.pause()?;
        self.run.events.tell(RunEvent::Paused);
        Ok(())
    }

    fn resume(&self) -> Result<(), PauseError> {
        self.run.pause.resume()?;
        self.run.events.tell(RunEvent::Resumed);
        Ok(())
    }

    /// The vCPUs of a paused guest do not run before its reset: they wait at the start of the next
    /// boot, and the pause is ended there.
    fn reboot(&self) -> Result<(), ControlError> {
        let boots = self.run.events.boots();
        self.asker.reboot();
        match self.run.events.wait_for_boot_after(boots) {
            None => {}
            // The run ends at a reboot, as the user wished.
            Some(reason) if reason == Exit::Reboot.name() => return Ok(()),
            Some(_) => return Err(ControlError::Ended),
        }
        // A vCPU of the next boot may not have come to its wait yet: the pause counts, not whether
        // all of them wait.
        match self.resume() {
            Ok(()) | Err(PauseError::NotPaused) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// The first bytes of a function's configuration space.
fn header_of(function: &dyn PciFunction) -> [u8; 64] {
    let mut header = [0; 64];
    for (offset, dword) in (0..).step_by(4).zip(header.chunks_exact_mut(4)) {
        function.config_read(offset, dword);
    }
    header
}
