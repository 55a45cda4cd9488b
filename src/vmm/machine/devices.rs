//! The guest's passed-through devices: puts them on bus 0 or behind root ports, watches them, and
//! removes them again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use pci::bar::Bars;
use pci::position::Position;
use pci::tree_assignment::{TreeFunction, assign_tree};
use pci::{Bdf, RootBus};
use tracing::info;

use crate::config::VmConfig;
use crate::config::slots::GuestAddress;
use crate::event_thread::EventThread;
use crate::gsi::emulated::EmulatedInterrupts;
use crate::layout::{Layout, pin_and_gsi};
use crate::machine::device_events::{self, DeviceListener, Watched};
use crate::machine::error::MachineError;
use crate::machine::ports::{GuestPort, Ports};
use crate::memory::dma::Dma;
use crate::phase;
use crate::stats::Stats;
use crate::stats::named_ranges::NamedFunction;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::{FunctionOptions, VfioFunction, VmResources};
use crate::vfio::open::VfioError;

/// A passed-through function on a bus of the guest.
pub(super) struct Attached {
    /// The function's address as firmware numbers the buses, once it has.
    pub bdf: Bdf,
    /// The address of the root port above the function; `None` on bus 0.
    pub port: Option<Bdf>,
    pub function: Arc<VfioFunction>,
    /// The maps of guest memory that the device uses.
    pub dma: Option<Arc<Dma>>,
    /// The eventfds that VFIO signals.
    pub events: Vec<Watched>,
}

/// The passed-through functions and root ports on the guest's buses, and the thread that handles
/// the events of their devices.
pub(super) struct Devices {
    tree: Mutex<Tree>,
    event_thread: Arc<EventThread>,
    /// Held while functions come to a bus or leave it, and while all are reset. No vCPU takes it.
    changing: Mutex<()>,
}

struct Tree {
    functions: Vec<Attached>,
    ports: Ports,
    /// How many functions have left.
    left: usize,
    /// Open devices of a start that has failed.
    unused: Vec<SharedDevice>,
}

/// The parts of the VM to which a device is attached.
pub(super) struct AttachTo<'a> {
    pub root: &'a RootBus,
    pub resources: &'a VmResources,
    pub dma: Option<Arc<Dma>>,
    pub stats: &'a Stats,
    /// Hears of the device's events.
    pub listener: Weak<dyn DeviceListener>,
}

impl Devices {
    /// Makes the set without functions.
    pub fn new(interrupts: Arc<EmulatedInterrupts>) -> Result<Self, MachineError> {
        Ok(Self {
            tree: Mutex::new(Tree {
                functions: Vec::new(),
                ports: Ports::new(interrupts),
                left: 0,
                unused: Vec::new(),
            }),
            event_thread: Arc::new(
                EventThread::new("device events").map_err(MachineError::Descriptors)?,
            ),
            changing: Mutex::default(),
        })
    }

    /// Starts the thread, for devices that come later.
    ///
    /// # Errors
    /// The host has no threads left.
    pub fn prepare(&self) -> Result<(), MachineError> {
        self.event_thread.start().map_err(MachineError::Descriptors)
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps functions from coming and leaving, and the VM from being reset.
    pub fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Devices::changing`], if nobody else has it.
    pub fn try_changing(&self) -> Option<MutexGuard<'_, ()>> {
        match self.changing.try_lock() {
            Ok(changing) => Some(changing),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Puts an open device at `address`, before the guest accesses any device.
    pub fn attach(
        &self,
        device: SharedDevice,
        address: GuestAddress,
        mut options: FunctionOptions,
        to: &AttachTo<'_>,
    ) -> Result<Bdf, MachineError> {
        let _phase = phase!("add_device", device.name());
        let device = to.stats.meter(device);
        let slot = address.slot;
        let make = |options| VfioFunction::new(device.clone(), to.resources.clone(), options);
        let (bdf, function, port) = match address.behind {
            None => {
                let function = make(options)?;
                let bdf = to.root.add(slot.device, slot.function, function.clone())?;
                (bdf, function, None)
            }
            Some(number) => {
                // Without the lock of the tree, which a report takes: the device is asked now.
                let above = self.tree().ports.at(slot, options.path, to.root)?.clone();
                options.position = Position::BehindPort(Arc::clone(above.port.upstream()));
                let function = make(options)?;
                to.root.add_behind(above.bdf, number, function.clone())?;
                above.port.add_behind(&function);
                let bdf = Bdf {
                    device: 0,
                    function: number,
                    ..above.bdf
                };
                (bdf, function, Some(above.bdf))
            }
        };
        match port {
            None => info!("{} is {bdf} in the guest", function.name()),
            Some(_) => info!("{} is {address} in the guest", function.name()),
        }
        let host = device.name().parse();
        if let Some(why) = host.ok().and_then(|host| address.why_renumbered(host)) {
            info!("{why}");
        }
        let events = self.connect(&device, &function, (bdf, port), to)?;
        self.tree().functions.push(Attached {
            bdf,
            port,
            function,
            dma: to.dma.clone(),
            events,
        });
        Ok(bdf)
    }

    /// Connects a function's pin, and watches its device. Nothing is on a bus yet.
    pub fn connect(
        &self,
        device: &SharedDevice,
        function: &Arc<VfioFunction>,
        (bdf, port): (Bdf, Option<Bdf>),
        to: &AttachTo<'_>,
    ) -> Result<Vec<Watched>, MachineError> {
        to.stats.set_wakeups(device.name(), function.wakeups());
        let (pin, gsi) = pin_and_gsi(bdf, port);
        function.connect_pin(pin, gsi, Arc::downgrade(&self.event_thread));
        device_events::watch(&self.event_thread, device, function, &to.listener)
    }

    /// Ends the watches of a device.
    pub fn unwatch(&self, events: &[Watched]) {
        for watched in events {
            self.event_thread.unwatch(watched.key);
        }
    }

    /// Does what firmware does before it starts the guest, or before the guest's first access to a
    /// device: adds the empty root ports, and gives every BAR and every port its addresses.
    pub fn set_up(
        &self,
        config: &VmConfig,
        layout: &Layout,
        root: &RootBus,
    ) -> Result<(), MachineError> {
        self.add_empty_ports(config, root)?;
        self.assign_bars(layout)
    }

    /// Puts the empty root ports on the root bus, beside the devices.
    fn add_empty_ports(&self, config: &VmConfig, root: &RootBus) -> Result<(), MachineError> {
        if config.ports.count == 0 {
            return Ok(());
        }
        let (_, empty) = config.addresses().map_err(VfioError::from)?;
        let ports = &mut self.tree().ports;
        empty
            .into_iter()
            .try_for_each(|slot| ports.add_empty(slot, config.ports.reserve, root))
    }

    /// Gives every BAR its address at power-on, and every root port its bus numbers and windows, as
    /// firmware does.
    fn assign_bars(&self, layout: &Layout) -> Result<(), MachineError> {
        let mut guard = self.tree();
        let tree = &mut *guard;
        let functions = tree.functions.iter();
        let mut all: Vec<Bars> = functions.map(|f| f.function.bars()).collect();
        let functions = tree.functions.iter().zip(&mut all);
        let functions = functions.map(|(attached, bars)| TreeFunction {
            name: attached.bdf,
            port: attached.port,
            bars,
        });
        let ports: Vec<_> = tree.ports.iter().map(|p| (p.bdf, p.reserve)).collect();
        let setups = assign_tree(functions.collect(), &ports, &layout.windows())?;
        tree.ports.set_power_on(&setups);
        for (attached, bars) in tree.functions.iter_mut().zip(all) {
            attached.function.set_reset_bars(bars);
            let index = ports.iter().position(|(p, _)| Some(*p) == attached.port);
            if let Some(setup) = index.and_then(|index| setups.get(index)) {
                attached.bdf.bus = setup.secondary;
            }
        }
        Ok(())
    }

    /// The functions, for the names of their registers.
    pub fn named(&self) -> Vec<NamedFunction> {
        let tree = self.tree();
        let above = |bdf| tree.ports.iter().find(|port| Some(port.bdf) == bdf);
        let functions = tree.functions.iter().map(|attached| NamedFunction {
            bdf: attached.bdf,
            function: Arc::downgrade(&attached.function),
            upstream: above(attached.port).map(|above| Arc::clone(above.port.upstream())),
        });
        functions.collect()
    }

    /// The root ports.
    pub fn ports(&self) -> Vec<GuestPort> {
        self.tree().ports.iter().cloned().collect()
    }

    /// The functions with their addresses in the guest.
    pub fn with_addresses(&self) -> Vec<(Bdf, Arc<VfioFunction>)> {
        self.which(|_| true)
    }

    /// The functions.
    pub fn functions(&self) -> Vec<Arc<VfioFunction>> {
        let tree = self.tree();
        let functions = tree.functions.iter();
        functions.map(|f| Arc::clone(&f.function)).collect()
    }

    /// The functions, and how many others have left.
    pub fn functions_and_left(&self) -> (Vec<Arc<VfioFunction>>, usize) {
        let tree = self.tree();
        let functions = tree.functions.iter();
        let functions = functions.map(|f| Arc::clone(&f.function));
        (functions.collect(), tree.left)
    }

    /// Adds functions that are on a bus.
    pub fn add(&self, functions: Vec<Attached>) {
        self.tree().functions.extend(functions);
    }

    /// The functions that satisfy `condition`, with their addresses in the guest.
    pub fn which(&self, condition: impl Fn(&Attached) -> bool) -> Vec<(Bdf, Arc<VfioFunction>)> {
        let tree = self.tree();
        let functions = tree.functions.iter().filter(|f| condition(f));
        functions
            .map(|attached| (attached.bdf, Arc::clone(&attached.function)))
            .collect()
    }

    /// Takes the functions that satisfy `leaves`.
    pub fn take(&self, leaves: impl Fn(&Attached) -> bool) -> Vec<Attached> {
        let mut tree = self.tree();
        let taken: Vec<_> = tree.functions.extract_if(.., |f| leaves(f)).collect();
        tree.left += taken.len();
        taken
    }

    /// Finds the function of a device by the host's name: its port, and the names of all functions
    /// there.
    pub fn find(&self, name: &str) -> Option<(Option<Bdf>, Vec<String>)> {
        let tree = self.tree();
        let found = tree.functions.iter().find(|f| f.function.name() == name)?;
        let port = found.port;
        let with = |f: &&Attached| match port {
            Some(_) => f.port == port,
            None => f.bdf == found.bdf,
        };
        let names = tree.functions.iter().filter(with);
        Some((port, names.map(|f| f.function.name().into()).collect()))
    }

    /// The names of the functions behind a port.
    pub fn names_behind(&self, port: Bdf) -> Vec<String> {
        let tree = self.tree();
        let here = tree.functions.iter().filter(|f| f.port == Some(port));
        here.map(|f| f.function.name().into()).collect()
    }

    /// Stops watching the devices, stops their interrupts and DMA, and removes them from the
    /// guest's bus. The devices stay open.
    pub fn detach(&self, root: &RootBus) {
        self.event_thread.stop();
        let tree = self.tree();
        for attached in &tree.functions {
            attached.function.quiesce();
            if attached.port.is_none() {
                root.remove(attached.bdf.device, attached.bdf.function);
            }
        }
        tree.ports.detach(root);
    }

    /// Keeps devices open until [`Devices::close`], because one of them cannot be attached.
    pub fn keep_open(&self, devices: Vec<SharedDevice>) {
        self.tree().unused.extend(devices);
    }

    /// Closes the devices, which are quiet already. No mapped page keeps a device's file open.
    pub fn close(&self) {
        let mut tree = self.tree();
        for attached in tree.functions.drain(..) {
            attached.function.close();
        }
        tree.unused.clear();
    }
}
