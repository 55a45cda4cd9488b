//! Devices that come and go while the guest runs.
//!
//! | file | what |
//! | --- | --- |
//! | `at_start` | the devices with which the guest begins |
//! | `plug_add` | an add: the steps, and what undoes them |
//! | `plug_choice` | the root port for a device |
//! | `plug_remove` | a removal: the button, the wait for the guest, the end |
//! | `plug_requests` | the removals that are pending |
//! | `maps` | the maps of guest memory, and how many devices use them |
//! | `real_host` | the steps of an add on the running host |
//!
//! No vCPU waits for the lock that keeps changes apart: it is taken by the threads of requests, by
//! the thread that opens devices beside the guest, and by a reset of the VM, when no vCPU runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use pci::{Bdf, RootBus};

use crate::control::RunControls;
use crate::gsi::emulated::EmulatedInterrupts;
use crate::machine::device_events::DeviceListener;
use crate::machine::devices::{AttachTo, Devices};
use crate::machine::error::MachineError;
use crate::machine::maps::Maps;
use crate::machine::platform::Platform;
use crate::machine::plug_requests::Requests;
use crate::machine::real_host::RealHost;
use crate::machine::vm::Vm;
use crate::memory::dma::{Dma, DmaMap};
use crate::plug::host_side::HostSide;
use crate::plug::{AddError, AddRequest, Added, HotPlug, Removal, RemoveError, RemoveRequest};
use crate::run_events::RunEvent;
use crate::stats::Stats;
use crate::sys::descriptor::Descriptor;
use crate::vfio::function::{VfioFunction, VmResources};

/// How often a change that waits for the devices of the start looks whether anybody waits for it.
const LOOK: Duration = Duration::from_millis(100);

/// The devices of a machine while it runs.
pub(super) struct Plugged {
    pub this: Weak<Self>,
    pub devices: Arc<Devices>,
    pub maps: Arc<Maps>,
    pub root: Arc<RootBus>,
    pub resources: VmResources,
    pub stats: Arc<Stats>,
    pub run: RunControls,
    host: RwLock<Arc<dyn HostSide>>,
    /// The host's side, but for a test.
    pub real_host: Arc<RealHost>,
    pub requests: Requests,
    /// Held during an add: one comes after the other.
    pub adding: Mutex<()>,
    /// Devices that are being added, and for which the host asks already.
    wanted: Mutex<Vec<String>>,
    /// Devices that have left the guest's buses, and are not the host's again yet.
    leaving: Mutex<Vec<String>>,
    /// The threads of removals.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Plugged {
    /// The devices of a machine, which has none yet.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(
        vm: &Vm,
        platform: &Platform,
        stats: &Arc<Stats>,
        run: &RunControls,
        host: Arc<RealHost>,
    ) -> Result<Arc<Self>, MachineError> {
        let interrupts = Arc::new(EmulatedInterrupts::new(&vm.routing));
        let devices = Arc::new(Devices::new(interrupts)?);
        if host.takes_devices() {
            devices.prepare()?;
        }
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            devices,
            maps: Arc::clone(&host.maps),
            root: Arc::clone(&platform.root),
            resources: platform.resources.clone(),
            stats: Arc::clone(stats),
            run: run.clone(),
            host: RwLock::new(Arc::clone(&host) as Arc<dyn HostSide>),
            real_host: host,
            requests: Requests::default(),
            adding: Mutex::default(),
            wanted: Mutex::default(),
            leaving: Mutex::default(),
            threads: Mutex::default(),
        }))
    }

    /// Makes another host's side, for a test.
    pub fn set_host(&self, host: Arc<dyn HostSide>) {
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
    }

    pub fn host(&self) -> Arc<dyn HostSide> {
        Arc::clone(&self.host.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The parts of the VM to which a device is attached whose DMA goes by `dma`.
    pub fn attach_to(&self, dma: Option<Arc<Dma>>) -> AttachTo<'_> {
        AttachTo {
            root: &self.root,
            resources: &self.resources,
            dma,
            stats: &self.stats,
            listener: self.this.clone() as Weak<dyn DeviceListener>,
        }
    }

    /// Waits until firmware has set the ports up and the devices are open with which the guest
    /// begins, unless the run ends before, or `check` fails.
    ///
    /// # Errors
    /// That of `check`.
    pub fn wait_for_first_boot<E>(&self, check: impl Fn() -> Result<(), E>) -> Result<(), E> {
        self.run.events.wait_for_boot_after(0);
        while !self.run.devices_open.wait_over(LOOK) {
            check()?;
        }
        check()
    }

    /// Whether the run is over, or ends because its devices cannot be opened.
    pub fn has_ended(&self) -> bool {
        let open = &self.run.devices_open;
        let failed = open.is_over() && !open.is_open();
        failed || self.run.events.ended().is_some() || self.requests.are_over()
    }

    pub fn wanted(&self) -> MutexGuard<'_, Vec<String>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn leaving(&self) -> MutexGuard<'_, Vec<String>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all requests, and waits for them: an add is undone, and a removal leaves its device.
    pub fn stop(&self) {
        self.requests.end_all();
        self.host().end();
        for port in self.devices.ports() {
            port.port.wake();
        }
        drop(self.adding.lock().unwrap_or_else(PoisonError::into_inner));
        // Outside of the lock: a thread may start another's removal.
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }
}

impl HotPlug for Plugged {
    fn add(&self, request: &AddRequest, gone: &dyn Fn() -> bool) -> Result<Added, AddError> {
        let outcome = self.add_device(request, gone);
        if outcome.is_err() {
            // Files that came with the request, and that nobody has taken.
            let given = request.devices.iter().filter_map(|device| device.given);
            given.for_each(Descriptor::close);
        }
        outcome
    }

    fn remove(
        &self,
        request: &RemoveRequest,
        gone: &dyn Fn() -> bool,
    ) -> Result<Removal, RemoveError> {
        self.remove_device(request, gone)
    }

    fn functions(&self) -> Vec<(Bdf, Arc<VfioFunction>)> {
        self.devices.with_addresses()
    }

    fn dma_maps(&self) -> Vec<DmaMap> {
        self.maps.list()
    }
}

impl DeviceListener for Plugged {
    fn failed(&self, function: &VfioFunction) {
        self.run.events.tell(RunEvent::DeviceFailed {
            id: function.name().into(),
            what: "device",
            why: "the device has failed".into(),
        });
    }

    fn wanted(&self, function: &Arc<VfioFunction>) {
        self.host_wants(function);
    }
}
