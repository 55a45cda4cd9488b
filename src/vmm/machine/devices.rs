//! The guest's passed-through devices: puts them on the bus, watches them, and removes them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pci::bar::Bars;
use pci::{Bdf, RootBus, bar_assignment};
use tracing::info;
use vmm_sys_util::eventfd::EventFd;

use crate::config::device::Slot;
use crate::event_thread::EventThread;
use crate::layout;
use crate::layout::Layout;
use crate::machine::device_events::{self, Release};
use crate::machine::error::MachineError;
use crate::memory::dma::Dma;
use crate::phase;
use crate::stats::Stats;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::{FunctionOptions, VfioFunction, VmResources};
use crate::vfio::open::Opened;

/// The passed-through functions on the guest's bus, and the thread that handles the events of their
/// devices.
pub(super) struct Devices {
    functions: Vec<(Bdf, Arc<VfioFunction>)>,
    event_thread: Arc<EventThread>,
    /// The eventfds that VFIO signals.
    events: Vec<EventFd>,
    /// The number of open devices that have not been given back to the host.
    in_use: Arc<AtomicUsize>,
}

/// The parts of the VM to which a device is attached.
pub(super) struct AttachTo<'a> {
    pub root: &'a RootBus,
    pub resources: &'a VmResources,
    pub dma: Option<&'a Arc<Dma>>,
    pub stats: &'a Stats,
}

impl Devices {
    /// Makes the set without functions. The devices of `opened` count as in use from the start,
    /// because the IOMMU maps memory for all of them.
    pub fn new(opened: Option<&Opened>) -> Result<Self, MachineError> {
        let in_use = opened.map_or(0, |opened| opened.devices.len());
        Ok(Self {
            functions: Vec::new(),
            event_thread: Arc::new(EventThread::new().map_err(MachineError::Descriptors)?),
            events: Vec::new(),
            in_use: Arc::new(AtomicUsize::new(in_use)),
        })
    }

    /// Counts one more open device.
    pub fn add_open(&self) {
        self.in_use.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts an open device on the root bus, at `slot` or at the next free device number.
    pub fn attach(
        &mut self,
        device: SharedDevice,
        slot: Option<Slot>,
        options: FunctionOptions,
        to: &AttachTo<'_>,
    ) -> Result<Bdf, MachineError> {
        let _phase = phase!("add_device", device.name());
        let device = to.stats.meter(device);
        let function = VfioFunction::new(Arc::clone(&device), to.resources.clone(), options)?;
        let bdf = match slot {
            Some(Slot {
                device,
                function: number,
            }) => to.root.add(device, number, function.clone())?,
            None => to.root.add_next(function.clone())?,
        };
        info!("{} is {bdf} in the guest", function.name());
        let pin = bdf.function % layout::INTX_PINS;
        let gsi = layout::gsi_of_pin(bdf.device, pin);
        function.connect_pin(pin, gsi, Arc::downgrade(&self.event_thread));
        self.functions.push((bdf, Arc::clone(&function)));
        let release = Release {
            space: Arc::clone(&to.resources.space),
            dma: to.dma.cloned(),
            in_use: Arc::clone(&self.in_use),
        };
        let events = device_events::watch(&self.event_thread, &device, &function, release)?;
        self.events.extend(events);
        Ok(bdf)
    }

    /// Gives every BAR its address at power-on, as firmware does.
    pub fn assign_bars(&self, layout: &Layout) -> Result<(), MachineError> {
        let mut all: Vec<(Bdf, Bars)> = self
            .functions
            .iter()
            .map(|(bdf, f)| (*bdf, f.bars()))
            .collect();
        let mut wishes: Vec<(Bdf, &mut Bars)> =
            all.iter_mut().map(|(bdf, bars)| (*bdf, bars)).collect();
        bar_assignment::assign(&mut wishes, &layout.windows())?;
        for ((_, function), (_, bars)) in self.functions.iter().zip(all) {
            function.set_reset_bars(bars);
        }
        Ok(())
    }

    /// The functions, with their addresses on the guest's bus.
    pub fn with_addresses(&self) -> &[(Bdf, Arc<VfioFunction>)] {
        &self.functions
    }

    /// The functions.
    pub fn functions(&self) -> Vec<Arc<VfioFunction>> {
        self.functions.iter().map(|(_, f)| Arc::clone(f)).collect()
    }

    /// Stops watching the devices, stops their interrupts and DMA, and removes them from the
    /// guest's bus. The devices stay open.
    pub fn detach(&self, root: &RootBus) {
        self.event_thread.stop();
        for (bdf, function) in &self.functions {
            function.quiesce();
            root.remove(bdf.device, bdf.function);
        }
    }

    /// Closes the devices, which are quiet already. No mapped page keeps a device's file open.
    pub fn close(&mut self) {
        for (_, function) in self.functions.drain(..) {
            function.close();
        }
    }
}
