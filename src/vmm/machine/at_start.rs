//! The devices with which the guest begins become functions on its buses, before the guest runs or
//! beside it.

use std::sync::Arc;
use std::time::Instant;

use pci::Bdf;
use pci::bus::Target;
use pci::host_path::HostPath;
use pci::position::Position;

use crate::config::VmConfig;
use crate::config::device::{DeviceConfig, Slot};
use crate::config::slots::GuestAddress;
use crate::guest_event::Notifier;
use crate::hostinfo::name::parse_address;
use crate::machine::error::MachineError;
use crate::machine::open_devices::{First, connect_iommu};
use crate::machine::opening::Opening;
use crate::machine::plugged::Plugged;
use crate::machine::ports;
use crate::machine::ram_setup::{RamMapper, RamSetup};
use crate::machine::vm::Vm;
use crate::memory::address_space::AddressSpace;
use crate::memory::dma::Dma;
use crate::memory::populate_throttle::PopulateThrottle;
use crate::stats::named_ranges;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::rom::RomSource;
use crate::vfio::function::{FunctionOptions, reset};
use crate::vfio::open::{Opened, VfioError};

/// What a test has opened beside the guest: devices, and the maps of guest memory that they use.
pub type OpenBeside = (Vec<SharedDevice>, Option<Arc<Dma>>);

/// What the user chose for each of the devices, in the order of `--vfio`.
pub(super) struct Chosen {
    pub configs: Vec<DeviceConfig>,
    pub addresses: Vec<GuestAddress>,
    pub roms: Vec<RomSource>,
}

impl Chosen {
    /// The devices are open. `dma` are the maps of guest memory that they use.
    pub fn open(self, devices: Vec<SharedDevice>, dma: Option<Arc<Dma>>) -> AtStart {
        AtStart {
            devices,
            chosen: self,
            dma,
        }
    }

    /// For a test: `open` opens the devices beside the guest.
    ///
    /// # Errors
    /// The host has no threads left.
    pub fn open_beside(
        self,
        (plugged, config): (&Arc<Plugged>, &VmConfig),
        notifier: &Arc<Notifier>,
        open: impl FnOnce(&DevicesOpen) -> Result<OpenBeside, MachineError> + Send + 'static,
    ) -> Result<Opening, MachineError> {
        plugged.hold_accesses(config)?;
        let latch = Arc::clone(&plugged.run.devices_open);
        let (to, config) = (Arc::clone(plugged), config.clone());
        Opening::spawn(
            &latch,
            notifier,
            || (),
            move |()| {
                let (devices, dma) = open(&to.run.devices_open)?;
                if let Some(dma) = &dma {
                    to.real_host.reach_memory(dma, devices.len())?;
                }
                to.attach_beside(self.open(devices, dma), &config)
            },
        )
    }
}

/// Open devices, with what the user chose for each.
pub(super) struct AtStart {
    devices: Vec<SharedDevice>,
    chosen: Chosen,
    /// The maps of guest memory that the devices use; `None` in a test.
    dma: Option<Arc<Dma>>,
}

/// What is done with the devices once they are open.
pub(super) struct Start {
    chosen: Chosen,
    plugged: Arc<Plugged>,
    space: Arc<AddressSpace>,
    ram_size: u64,
    ram: RamMapper,
    throttle: Arc<PopulateThrottle>,
}

impl Start {
    /// Nothing is done yet.
    pub fn new(chosen: Chosen, plugged: &Arc<Plugged>, vm: &Vm, ram: &mut RamSetup) -> Self {
        Self {
            chosen,
            plugged: Arc::clone(plugged),
            space: Arc::clone(&vm.space),
            ram_size: vm.ram.size(),
            ram: ram.mapper(),
            throttle: ram.throttle(),
        }
    }

    /// Makes functions of the devices, now or once they are open. Returns the opening that goes on
    /// beside the guest.
    ///
    /// # Errors
    /// A device cannot be used.
    pub fn begin(self, first: First, config: &VmConfig) -> Result<Option<Opening>, MachineError> {
        let plugged = Arc::clone(&self.plugged);
        match first {
            First::None => Ok(None),
            First::Open(opened) => {
                plugged.attach_all(self.connect(opened)?)?;
                Ok(None)
            }
            First::Opening(mut opening, early, _) => {
                plugged.hold_accesses(config)?;
                let config = config.clone();
                opening.go_on(Box::new(move |opened| {
                    early.check(opened.devices.iter().map(|device| &**device as _))?;
                    let throttle = Arc::clone(&self.throttle);
                    let open = self.connect(opened)?;
                    let _paused = throttle.pause();
                    plugged.attach_beside(open, &config)
                }));
                Ok(Some(opening))
            }
        }
    }

    /// Lets the devices reach guest memory: RAM is mapped from now on.
    ///
    /// # Errors
    /// RAM lies where the IOMMU cannot map.
    fn connect(self, opened: Opened) -> Result<AtStart, MachineError> {
        let plugged = &self.plugged;
        let memory = (&*self.space, self.ram_size);
        let dma = connect_iommu(memory, &opened, &self.chosen.configs, &plugged.stats)?;
        // The IOMMU maps memory for all of the open devices.
        plugged.maps.join(&dma, opened.devices.len());
        self.ram.map(&dma);
        let devices = opened.devices.into_iter();
        let devices = devices.map(|device| device as SharedDevice).collect();
        Ok(self.chosen.open(devices, Some(dma)))
    }
}

impl Plugged {
    /// Puts the open devices on their buses, in the order of `--vfio`.
    ///
    /// # Errors
    /// A device cannot be used. The devices stay open until guest memory is unmapped: a container
    /// loses its IOMMU with its last device, and a map that fails then hides the reason.
    pub fn attach_all(&self, all: AtStart) -> Result<(), MachineError> {
        let devices = all.devices.clone();
        self.attach_each(all)
            .inspect_err(|_| self.devices.keep_open(devices))
    }

    fn attach_each(&self, all: AtStart) -> Result<(), MachineError> {
        let Chosen {
            configs,
            addresses,
            roms,
        } = all.chosen;
        let paths = ports::paths(&all.devices, &addresses)?;
        let where_to = addresses.into_iter().zip(paths);
        let devices = all.devices.into_iter().zip(&configs).zip(roms);
        for (((device, config), rom), at) in devices.zip(where_to) {
            self.attach(device, config, at, (rom, all.dma.clone()))?;
        }
        Ok(())
    }

    /// Puts an open device on its bus.
    ///
    /// # Errors
    /// The device cannot be used, or the address is taken.
    pub fn attach(
        &self,
        device: SharedDevice,
        config: &DeviceConfig,
        (address, path): (GuestAddress, HostPath),
        (rom, dma): (RomSource, Option<Arc<Dma>>),
    ) -> Result<Bdf, MachineError> {
        let options = FunctionOptions {
            rom,
            clique: config.clique,
            position: Position::RootBus,
            path,
            mechanisms: config.mechanisms,
        };
        let to = self.attach_to(dma);
        self.devices.attach(device, address, options, &to)
    }

    /// Does what firmware does before it starts the guest, or before the guest's first access to a
    /// device, and resets the devices that opening has not reset.
    ///
    /// # Errors
    /// The BARs do not fit, or a device does not answer.
    pub fn set_up(&self, config: &VmConfig) -> Result<(), MachineError> {
        let layout = &self.resources.layout;
        self.devices.set_up(config, layout, &self.root)?;
        self.name_registers();
        Ok(reset::before_first_boot(&self.devices.functions())?)
    }

    /// Lets reports name registers of the functions and ports that there are at their time.
    fn name_registers(&self) {
        // Weak references: the root bus owns the statistics, so the statistics must not own
        // anything that owns the root bus.
        let (devices, of) = (Arc::downgrade(&self.devices), Arc::downgrade(&self.devices));
        let named = move || devices.upgrade().map_or_else(Vec::new, |d| d.named());
        let ports = move || {
            let ports = of.upgrade().map_or_else(Vec::new, |d| d.ports());
            ports.iter().map(|port| port.bdf).collect()
        };
        let ecam = self.resources.layout.ecam();
        self.stats
            .set_named_ranges(named_ranges::lookup(named, ports, ecam));
    }

    /// Makes the devices functions of a guest that runs, all at once, and lets the guest access
    /// them.
    ///
    /// # Errors
    /// As [`Plugged::attach_all`] and [`Plugged::set_up`].
    pub fn attach_beside(&self, all: AtStart, config: &VmConfig) -> Result<(), MachineError> {
        let _changing = self.devices.changing();
        self.attach_all(all)?;
        self.set_up(config)?;
        self.run.devices_open.open();
        Ok(())
    }

    /// Lets the guest's accesses wait for devices that are not open yet: those to a device, to a
    /// root port, whose windows are made for the devices, and to what is behind the ports.
    ///
    /// # Errors
    /// The bus has no address for a device.
    pub fn hold_accesses(&self, config: &VmConfig) -> Result<(), MachineError> {
        let held = Held::of(config)?;
        self.name_registers();
        let (latch, stats) = (Arc::clone(&self.run.devices_open), Arc::clone(&self.stats));
        self.root.set_admission(move |target| {
            if latch.is_open() || !held.has(target) {
                return true;
            }
            let begun = Instant::now();
            let open = latch.wait();
            if let Some(device) = held.counted(target) {
                stats.count_wait(device, begun.elapsed());
            }
            open
        });
        Ok(())
    }
}

/// The addresses whose functions come once all devices are open.
struct Held {
    /// The devices' host names and addresses.
    devices: Vec<(String, GuestAddress)>,
    /// The addresses of empty ports.
    empty: Vec<Slot>,
}

impl Held {
    fn of(config: &VmConfig) -> Result<Self, MachineError> {
        let (addresses, empty) = config.addresses().map_err(VfioError::from)?;
        let name = |config: &DeviceConfig| {
            let parsed = parse_address(&config.address);
            parsed.map_or_else(|_| config.address.clone(), |name| name.to_string())
        };
        let names = config.vfio.iter().map(name);
        Ok(Self {
            devices: names.zip(addresses).collect(),
            empty,
        })
    }

    /// Whether an access to these registers waits. The guest has set no bus numbers yet, so no bus
    /// but 0 is known.
    fn has(&self, target: Target) -> bool {
        let at_port = match target.bus {
            0 => self.empty.iter().any(|slot| is_at(*slot, target)),
            _ => !self.empty.is_empty(),
        };
        at_port || self.device(target).is_some()
    }

    /// The device for which a wait counts: the first at its address, or behind a port. One latch
    /// holds for all devices, so that a wait for an empty port, or for an empty bus, counts for the
    /// first device.
    fn counted(&self, target: Target) -> Option<&str> {
        let first = || self.devices.first().map(|(name, _)| name.as_str());
        self.device(target).or_else(first)
    }

    /// The first device at this address, or behind a port.
    fn device(&self, target: Target) -> Option<&str> {
        let concerns = |address: &GuestAddress| match target.bus {
            0 => is_at(address.slot, target),
            _ => address.behind.is_some(),
        };
        let mut devices = self.devices.iter();
        let found = devices.find(|(_, address)| concerns(address));
        found.map(|(name, _)| name.as_str())
    }
}

fn is_at(slot: Slot, target: Target) -> bool {
    (slot.device, slot.function) == (target.device, target.function)
}
