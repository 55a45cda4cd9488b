//! The composition root: reads top to bottom as the boot order.

mod attach;
mod base;
mod error;
mod lost_pages;
mod notices;
mod parts;
mod places;
mod vcpus;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base::Base;
pub use error::MachineError;
use error::kvm_call;
use kvm_ioctls::VmFd;
use lost_pages::DevicePages;
use parts::{
    bytes_of_bars, check_lock, check_memory, left_beside, make_serial, open_kvm, pins, side_by_side,
};
use pci::access::{ConfigPorts, Ecam};
use pci::{Bdf, RootBus, access};
use tracing::{debug, info};
use vcpus::make_vcpus;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::cpu_state::CpuState;
use crate::boot::{Images, Loaded, acpi};
use crate::bus::Bus;
use crate::coalesced::Coalesced;
use crate::config::device::assign_slots;
use crate::config::{Statistics, VmConfig};
use crate::counters::exits::Exits;
use crate::devices::power::Power;
use crate::devices::serial::{Output, Serial};
use crate::devices::{power, serial};
use crate::event_thread::EventThread;
use crate::gsi::irqchip;
use crate::guest_event::{GuestEvent, Notifier};
use crate::hostinfo::sysfs::Sysfs;
use crate::layout::Layout;
use crate::lifecycle::{End, Lifecycle};
use crate::memory::dma::Dma;
use crate::memory::gate::Gate;
use crate::memory::kvm_slots::KvmSlots;
use crate::memory::pinning;
use crate::memory::pinning::Pinning;
use crate::memory::ram::Ram;
use crate::stats::Stats;
use crate::vcpu::{Running, Vcpu};
use crate::vfio::function::rom::RomSource;
use crate::vfio::function::{Surroundings, VfioFunction, reset};
use crate::vfio::open;
use crate::{layout, phase, vcpu};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reboot, and the run ends with it.
    Reboot,
    /// The guest's processor shut down, and the run ends with it.
    TripleFault,
    /// The user or a signal ended the run.
    Asked,
}

impl Exit {
    /// The process's exit status.
    pub fn status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reboot | Self::Asked => 0,
            Self::TripleFault => 3,
        }
    }
}

/// A VM, from its first ioctl to its end.
pub struct Machine {
    config: VmConfig,
    layout: Layout,
    images: Images,
    /// Kernel and initrd, loaded for the first boot.
    loaded: Option<Loaded>,
    acpi: acpi::Placed,
    vcpus: Vec<Vcpu>,
    vm: Arc<VmFd>,
    irqchip: irqchip::PowerOn,
    ram: Arc<Ram>,
    root: Arc<RootBus>,
    ports: Arc<ConfigPorts>,
    serial: Arc<Serial>,
    coalesced: Arc<Coalesced>,
    around: Surroundings,
    slots: Arc<KvmSlots>,
    dma: Option<Arc<Dma>>,
    pinning: Option<Pinning>,
    functions: Vec<(Bdf, Arc<VfioFunction>)>,
    service: Arc<EventThread>,
    notices: Vec<EventFd>,
    /// Devices that the host has not taken back.
    in_use: Arc<AtomicUsize>,
    notifier: Arc<Notifier>,
    stats: Arc<Stats>,
}

impl Machine {
    /// Builds the VM of `config`, with the guest's serial port writing to `output`. Nothing runs
    /// yet. Mistakes of the user's are found before anything is taken from the host.
    ///
    /// # Errors
    /// What is wrong, with its hint; all that was taken is given back.
    pub fn new(config: VmConfig, output: Output) -> Result<Self, MachineError> {
        let measured = config.statistics != Statistics::Off;
        let stats = Arc::new(Stats::new(config.cpus.count(), measured));
        // What the user gave, without touching the host.
        let looking = phase!("look_at_files");
        let images = Images::open(&config.kernel, config.initrd.as_deref())?;
        let roms = config
            .vfio
            .iter()
            .map(|device| RomSource::load(&device.rom));
        let roms = roms.collect::<Result<Vec<_>, _>>()?;
        let candidates = open::find(&Sysfs::default(), &config.vfio)?;
        check_memory(&config.memory, !candidates.is_empty())?;
        vcpu::pin::check(&config.cpus.pin)?;
        drop(looking);
        let making = phase!("create_vm");
        let kvm = open_kvm()?;
        let supported = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_call("KVM_GET_SUPPORTED_CPUID"))?;
        let phys_bits = vcpu::phys_bits(&supported);
        let Base {
            layout,
            ram,
            vm,
            space,
            slots,
            irqchip,
            router,
        } = Base::new(&kvm, &config, &images, phys_bits)?;
        stats.set_ram(ram.regions());
        stats.watch_kvm(&*vm);
        drop(making);

        // With a device, RAM is made present and mapped from here on, also while the guest runs. Without
        // one, pages may as well appear when they are touched.
        let prefault = config.memory.prefault;
        let devices = !candidates.is_empty();
        let notifier = Arc::new(Notifier::new().map_err(MachineError::Descriptors)?);
        let mut pinning = None;
        if devices {
            let (ram, notifier) = (Arc::clone(&ram), Arc::clone(&notifier));
            let failed =
                move || notifier.notify(GuestEvent::Broken("its RAM is not mapped".into()));
            let prefault = prefault.unwrap_or_else(|| pins(&candidates));
            pinning = Some(Pinning::start(ram, prefault, failed)?);
        } else if prefault == Some(true) {
            pinning::populate(&ram)?;
        }
        let gate = pinning.as_ref().map(Pinning::gate);
        let gate = gate.unwrap_or_else(|| Arc::new(Gate::open()));
        // Pages are made while there is nothing to do but to wait for devices, and when vCPUs run.
        let (loading_hold, hold) = (gate.hold(), Mutex::new(Some(gate.hold())));
        let pace = |waiting: bool| {
            let now = (!waiting).then(|| gate.hold());
            *hold.lock().unwrap_or_else(PoisonError::into_inner) = now;
        };
        let (opened, (vcpus, loaded)) = side_by_side(
            devices,
            || open::open(Some(&vm), &candidates, config.iommu, &pace),
            || {
                let vcpus = make_vcpus(&kvm, &vm, &supported, &config.cpus)?;
                let loading = phase!("load_images");
                let loaded = images.load_files(ram.memory(), &layout, &config.cmdline)?;
                drop((loading, loading_hold));
                Ok((vcpus, loaded))
            },
        )?;

        // After what opening may have found, which is more to the point.
        check_lock(config.memory.size, &candidates)?;

        // The devices reach the guest's memory, when it is mapped, and nothing else.
        let bars64 = opened.as_ref().map_or(0, bytes_of_bars);
        let mut layout = Layout::new(config.memory.size, bars64, phys_bits)?;
        if let Some(opened) = &opened {
            layout = layout.reachable(bars64, phys_bits, opened.mapper.iova_ranges());
        }
        let dma = match &opened {
            Some(opened) => {
                let dma = Arc::new(Dma::new(
                    opened.mapper.clone(),
                    ram.size(),
                    candidates.len() > 1,
                    Arc::clone(&stats.dma),
                ));
                space.subscribe(dma.clone())?;
                if let Some(pinning) = &mut pinning {
                    pinning.map(dma.clone());
                }
                Some(dma)
            }
            None => None,
        };

        let platform = phase!("add_platform");
        let bus = Arc::new(Bus::new());
        let root = Arc::new(RootBus::new());
        if measured {
            let stats = Arc::clone(&stats);
            root.watch(move |target, write| stats.count_config(target, write));
        }
        let ports = Arc::new(ConfigPorts::new(Arc::clone(&root)));
        let serial = make_serial(&router, output)?;
        bus.insert_pio(layout::PORT_PCI_ADDRESS, access::PORTS, ports.clone())?;
        bus.insert_pio(layout::PORT_SERIAL, serial::PORTS, serial.clone())?;
        bus.insert_pio(
            power::PORT,
            power::PORTS,
            Arc::new(Power::new(Arc::clone(&notifier))),
        )?;
        bus.insert_mmio(
            layout::ECAM_START,
            layout::ECAM_SIZE,
            Arc::new(Ecam(Arc::clone(&root))),
        )?;

        let acpi = acpi::build(&layout, &config.cpus.topology)?;

        vcpus.iter().for_each(|vcpu| stats.watch_kvm(vcpu));
        let coalesced = Coalesced::new(&vm, vcpus.first(), bus.clone(), serial.clone());
        let zones = Arc::new(coalesced.zones(&vm));

        // All that are open, those that are not in the guest yet as well: their DMA needs the maps.
        let opened_count = opened.as_ref().map_or(0, |o| o.devices.len());
        let mut machine = Self {
            acpi,
            around: Surroundings {
                space,
                bus,
                router,
                zones,
                layout,
                gate,
            },
            config,
            layout,
            images,
            loaded: Some(loaded),
            vcpus,
            vm,
            irqchip,
            ram,
            root,
            ports,
            serial,
            coalesced: Arc::new(coalesced),
            slots,
            dma,
            pinning,
            functions: Vec::new(),
            service: Arc::new(EventThread::new().map_err(MachineError::Descriptors)?),
            notices: Vec::new(),
            in_use: Arc::new(AtomicUsize::new(opened_count)),
            notifier,
            stats,
        };
        drop(platform);
        let slots: Vec<_> = assign_slots(&machine.config.vfio)
            .iter()
            .map(|config| config.slot)
            .collect();
        let devices = opened.into_iter().flat_map(|o| o.devices);
        for (device, (slot, rom)) in devices.zip(slots.into_iter().zip(roms)) {
            machine.attach(device, slot, rom)?;
        }
        drop(hold);
        if let Some(pinning) = &mut machine.pinning {
            pinning.wait(left_beside(&machine.config.memory, &candidates))?;
        }
        Ok(machine)
    }

    /// COM1, for the keyboard.
    pub fn serial(&self) -> Arc<Serial> {
        Arc::clone(&self.serial)
    }

    /// Who hears the guest's events.
    pub fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier)
    }

    /// What is counted, for whoever reports it.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// The exit counters.
    pub fn exits(&self) -> Arc<Exits> {
        Arc::clone(&self.stats.exits)
    }

    /// The memory slots, for whoever counts them.
    pub fn slots(&self) -> Arc<KvmSlots> {
        Arc::clone(&self.slots)
    }

    /// Runs the guest to its end.
    ///
    /// # Errors
    /// When the kernel cannot be loaded any more, or KVM cannot go on with the guest.
    pub fn run(&mut self, lifecycle: &mut Lifecycle) -> Result<Exit, MachineError> {
        self.place_bars()?;
        self.stats.set_places(places::lookup(&self.functions));
        // The root bus has the statistics: they must not keep what has the root bus.
        let coalesced = Arc::downgrade(&self.coalesced);
        self.stats
            .set_coalesced(move || coalesced.upgrade().map_or(0, |c| c.applied()));
        reset::announce(&self.vfio_functions());
        loop {
            // What came of it while the guest was being reset.
            self.pinning.as_mut().map_or(Ok(()), Pinning::outcome)?;
            let starting = self.around.gate.hold();
            let mut running = self.start()?;
            drop(starting);
            let end = lifecycle.wait();
            self.vcpus = running.stop()?;
            info!("{}", self.stats.exits);
            info!("writes without an exit: {}", self.coalesced.applied());
            match end.map_err(MachineError::Loop)? {
                End::Guest(GuestEvent::PowerOff) => return Ok(Exit::PowerOff),
                End::Signal(_) | End::Quit => return Ok(Exit::Asked),
                End::Guest(GuestEvent::Broken(why)) => {
                    self.pinning.as_mut().map_or(Ok(()), Pinning::outcome)?;
                    return Err(MachineError::Broken(why));
                }
                End::Guest(GuestEvent::Reset) if self.config.no_reboot => return Ok(Exit::Reboot),
                End::Guest(GuestEvent::TripleFault) if self.config.no_reboot => {
                    return Ok(Exit::TripleFault);
                }
                End::Guest(GuestEvent::Reset) => info!("the guest reboots"),
                End::Guest(GuestEvent::TripleFault) => {
                    info!("the guest's processor shut down: a triple fault, and it boots again");
                }
            }
            self.reset()?;
        }
    }

    /// Loads the kernel, puts vCPU 0 at its entry, and lets all vCPUs go.
    fn start(&mut self) -> Result<Running, MachineError> {
        let memory = self.ram.memory();
        let cmdline = &self.config.cmdline;
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => self.images.load_files(memory, &self.layout, cmdline)?,
        };
        let (images, acpi) = (&self.images, &self.acpi);
        let tables = phase!("load_tables");
        let entry = images.load_rest(loaded, memory, &self.layout, cmdline, acpi)?;
        drop(tables);
        debug!(?entry, "loaded");
        let _phase = phase!("start_vcpus");
        let boot = CpuState::new(&entry);
        if let Some(first) = self.vcpus.first() {
            first.enter(&boot)?;
        }
        let shared = vcpu::Shared {
            bus: Arc::clone(&self.around.bus),
            coalesced: Arc::clone(&self.coalesced),
            gate: Arc::clone(&self.around.gate),
            notifier: Arc::clone(&self.notifier),
            exits: Arc::clone(&self.stats.exits),
            lost_pages: Arc::new(DevicePages::new(self)),
        };
        Ok(Running::start(std::mem::take(&mut self.vcpus), &shared)?)
    }

    /// Power-on state for all. No vCPU is running.
    fn reset(&mut self) -> Result<(), MachineError> {
        info!("reset with slots={}", self.slots.in_use());
        // An event of the boot that has ended must not end the next.
        self.notifier.take();
        // The controllers first: a pin that fires as soon as its device is reset must find them
        // as they will be.
        self.irqchip
            .write(&self.vm)
            .map_err(kvm_call("KVM_SET_IRQCHIP"))?;
        reset::devices(&self.vfio_functions());
        self.root.reset();
        self.ports.reset();
        self.serial.reset();
        // Last: what the devices have sent until they were reset goes with the local APICs.
        self.vcpus.iter().try_for_each(Vcpu::reset)?;
        Ok(())
    }
}

/// In reverse: devices fall silent, lose the guest's memory, and are closed; the VM goes last.
impl Drop for Machine {
    fn drop(&mut self) {
        self.service.stop();
        for (bdf, function) in &self.functions {
            function.quiesce();
            self.root.remove(bdf.device, bdf.function);
        }
        self.pinning = None;
        // The container loses its IOMMU with its last device: unmap while it still has it.
        if let Some(dma) = self.dma.take() {
            let begun = Instant::now();
            self.around.space.unsubscribe(&*dma);
            let us = begun.elapsed().as_micros();
            info!("the guest's memory was unmapped for DMA in {us} us");
        }
        self.functions.clear();
    }
}
