//! The composition root: [`Machine::new`] is the boot order, step by step.
//!
//! | file | step |
//! | --- | --- |
//! | `preflight` | checks the user's configuration; the host stays as it is |
//! | `capabilities` | what KVM must have, and what it turns on for this VM |
//! | `create`, `vm` | KVM's VM, RAM, memory slots, interrupt controllers |
//! | `ram_setup` | with a device, a thread starts to populate RAM |
//! | `open_devices`, `vcpus` | opens devices, and meanwhile makes vCPUs and loads the kernel |
//! | `platform` | makes buses, emulated devices and ACPI tables |
//! | `early`, `opening` | opens devices beside the guest, where that is possible |
//! | `at_start` | makes functions of the devices that are open |
//! | `devices`, `device_events` | puts the open devices on the guest's bus and watches them |
//! | `plugged` | devices that come and go while the guest runs |
//! | `ends` | the end of a boot: the end of the run, or another boot |
//!
//! [`Machine::run`] then gives every BAR an address, if the devices are open, and starts the vCPUs.
//! When the guest resets the machine, it boots again.

mod at_start;
mod capabilities;
mod create;
mod device_events;
mod devices;
mod early;
mod ends;
mod error;
mod later_devices;
pub(crate) mod maps;
mod memory_faults;
mod open_devices;
mod opening;
mod platform;
mod plug_add;
mod plug_choice;
mod plug_remove;
mod plug_requests;
mod plugged;
mod port_choice;
mod ports;
mod preflight;
mod ram_setup;
mod real_host;
mod vcpus;
mod vm;

use std::mem;
use std::sync::{Arc, Weak};

pub use at_start::OpenBeside;
pub use error::MachineError;
pub use later_devices::mappable;
use pci::Bdf;
use tracing::{debug, info};

use crate::boot::cpu_state::CpuState;
use crate::boot::{Images, Loaded, mptable};
use crate::config::device::DeviceConfig;
use crate::config::slots;
use crate::config::{Statistics, VmConfig};
use crate::control::{Control, RunControls};
use crate::devices::output_queue::Output;
use crate::devices::power_button::PowerButton;
use crate::devices::serial::Serial;
pub use crate::exit::Exit;
use crate::guest_event::{GuestEvent, Notifier};
use crate::lifecycle::{Asker, End, Lifecycle};
use crate::machine::at_start::{Chosen, Start};
use crate::machine::create::create_vm;
use crate::machine::early::Early;
use crate::machine::ends::{end_with, exit_of, reset_devices, wait_between_boots, wait_for_end};
use crate::machine::memory_faults::DeviceFaults;
use crate::machine::open_devices::{First, check_calls, open_beside};
use crate::machine::opening::Opening;
use crate::machine::platform::Platform;
use crate::machine::plugged::Plugged;
use crate::machine::preflight::check_memory_lock;
use crate::machine::ram_setup::RamSetup;
use crate::machine::real_host::RealHost;
use crate::machine::vcpus::make_vcpus_and_load;
use crate::machine::vm::Vm;
use crate::memory::error::MemoryError;
use crate::memory::kvm_slots::KvmSlots;
use crate::phase;
use crate::plug::HotPlug;
use crate::plug::host_side::{Claims, HostSide};
use crate::stats::Stats;
use crate::sys::bus_error;
use crate::vcpu::Vcpu;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::shared::Shared;
use crate::vcpu::threads::Running;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::rom::RomSource;
use crate::vfio::kernel_calls::opener_here;
use crate::vfio::open::{DeviceSet, VfioError};
use crate::vfio::opener::Opener;

/// A VM with its devices.
pub struct Machine {
    /// The opening of devices beside the guest; it may be over.
    opening: Option<Opening>,
    config: VmConfig,
    images: Images,
    /// Kernel and initrd, loaded for the first boot; `None` after that.
    loaded: Option<Loaded>,
    /// The vCPUs; empty while they run.
    vcpus: Vec<Vcpu>,
    platform: Platform,
    vm: Vm,
    ram_setup: RamSetup,
    plugged: Arc<Plugged>,
    opener: Arc<Opener>,
    notifier: Arc<Notifier>,
    run_controls: RunControls,
    stats: Arc<Stats>,
}

impl Machine {
    /// Builds the VM of `config`; the guest's serial port writes to `output`. No vCPU runs yet.
    /// Mistakes in the configuration are reported before the VM takes anything from the host.
    ///
    /// # Errors
    /// The failure, with [its remedy](MachineError::hint). Everything that was taken from the host
    /// is given back.
    ///
    /// # Example
    /// ```no_run
    /// use vmm::config::VmConfig;
    /// use vmm::lifecycle::Lifecycle;
    /// use vmm::machine::{Exit, Machine, MachineError};
    ///
    /// fn run(config: VmConfig) -> Result<Exit, MachineError> {
    ///     let mut machine = Machine::new(config, Box::new(std::io::stdout()))?;
    ///     let lifecycle = Lifecycle::new(machine.notifier(), None);
    ///     machine.run(&mut lifecycle.map_err(MachineError::Loop)?)
    /// }
    /// ```
    pub fn new(config: VmConfig, output: Output) -> Result<Self, MachineError> {
        Self::with_opener(config, output, opener_here())
    }

    /// As [`Machine::new`]; `opener` opens, resets and closes the devices. With
    /// [`Opener::start`], no device can hold this process up.
    ///
    /// # Errors
    /// As [`Machine::new`].
    pub fn with_opener(
        mut config: VmConfig,
        output: Output,
        opener: Arc<Opener>,
    ) -> Result<Self, MachineError> {
        let measured = config.statistics != Statistics::Off;
        let stats = Arc::new(Stats::new(config.cpus.count(), measured));
        // The host stays as it is.
        let decisions = port_choice::decide(&mut config, &opener);
        let (images, roms, candidates) = preflight::check(&config, &opener)?;
        check_calls(&opener)?;
        let (kvm, vm) = create_vm(&config, &images, &stats)?;
        // With devices, a thread populates RAM from now on, except while set-up itself is busy.
        let notifier = Arc::new(Notifier::new().map_err(MachineError::Descriptors)?);
        let ends = Arc::clone(&notifier);
        vm.space
            .on_loss(move |why| ends.notify(GuestEvent::Broken(why.into())));
        let ram_setup = RamSetup::start(&vm.ram, &config.memory, &candidates, &notifier)?;
        let rest = || make_vcpus_and_load(&kvm, &vm, &config, &images);
        let set = DeviceSet::new(Some(Arc::clone(&vm.fd)), config.iommu, &opener);
        let set = Arc::new(set);
        let run_controls = RunControls::default();
        let early = Early::of(&candidates, &vm.layout, &ram_setup, &opener);
        let (latch, meanwhile) = (&run_controls.devices_open, (&ram_setup, &notifier));
        let (first, (vcpus, loaded), paused) =
            open_beside(&set, &candidates, early, latch, meanwhile, rest)?;
        check_memory_lock(config.memory.size, &candidates, first.interface())?;
        // The IOMMU lets the devices reach the guest's memory and nothing else. The thread that
        // populates RAM maps RAM too.
        let known = (&candidates[..], first.bars());
        port_choice::fit(&mut config, decisions, known, &vm.layout);
        let layout = open_devices::layout(&vm, &first, kvm.reach, &config)?;
        let map = (layout, &config.cpus.topology, ram_setup.ready());
        let platform = Platform::new(&vm, map, &vcpus, &stats, &notifier, output)?;
        let host = RealHost::new((&vm, &platform), &config, set, &stats);
        let plugged = Plugged::new(&vm, &platform, &stats, &run_controls, host)?;
        let mut machine = Self {
            opening: None,
            plugged,
            config,
            images,
            loaded: Some(loaded),
            vcpus,
            platform,
            vm,
            ram_setup,
            opener,
            notifier,
            run_controls,
            stats,
        };
        bus_error::set_memory(machine.vm.ram.areas());
        machine.begin_with(first, roms)?;
        drop(paused);
        if machine.opening.is_none() {
            machine.ram_setup.wait()?;
        }
        Ok(machine)
    }

    /// Makes functions of the devices with which the guest begins, now or once they are open.
    fn begin_with(&mut self, first: First, roms: Vec<RomSource>) -> Result<(), MachineError> {
        let chosen = self.choose(0, roms)?;
        let start = Start::new(chosen, &self.plugged, &self.vm, &mut self.ram_setup);
        self.opening = start.begin(first, &self.config)?;
        Ok(())
    }

    /// Gives the devices from number `from` on their slots for good.
    fn choose(&mut self, from: usize, roms: Vec<RomSource>) -> Result<Chosen, MachineError> {
        let (addresses, _) = self.config.addresses().map_err(VfioError::from)?;
        for (config, address) in self.config.vfio.iter_mut().zip(&addresses) {
            config.slot = Some(address.slot);
        }
        Ok(Chosen {
            configs: self.config.vfio.iter().skip(from).cloned().collect(),
            addresses: addresses.into_iter().skip(from).collect(),
            roms,
        })
    }

    /// For a test: `open` opens devices of these configurations beside the guest, which waits for
    /// the latch. No device is added afterwards.
    ///
    /// # Errors
    /// The ROM's file cannot be used, or the bus is full.
    pub fn open_beside(
        &mut self,
        configs: Vec<DeviceConfig>,
        open: impl FnOnce(&DevicesOpen) -> Result<OpenBeside, MachineError> + Send + 'static,
    ) -> Result<(), MachineError> {
        let roms = configs.iter().map(|config| RomSource::load(&config.rom));
        let roms = roms.collect::<Result<_, _>>()?;
        let from = self.config.vfio.len();
        self.config.vfio.extend(configs);
        let chosen = self.choose(from, roms)?;
        let to = (&self.plugged, &self.config);
        self.opening = Some(chosen.open_beside(to, &self.notifier, open)?);
        Ok(())
    }

    /// Puts a device on the root bus, at the slot of `config` or at the next free device number. To
    /// be called before [`Machine::run`].
    ///
    /// # Errors
    /// The ROM's file cannot be used, the device does not answer, its slot is taken, or the bus is
    /// full.
    pub fn add_device(
        &mut self,
        device: SharedDevice,
        config: &DeviceConfig,
    ) -> Result<Bdf, MachineError> {
        let address = slots::assign_one(&self.config.vfio, config).map_err(VfioError::from)?;
        let path = ports::path(&*device, &address)?;
        let rom = RomSource::load(&config.rom)?;
        let at = (address, path);
        let bdf = self.plugged.attach(device, config, at, (rom, None))?;
        self.config.vfio.push(DeviceConfig {
            slot: Some(address.slot),
            ..config.clone()
        });
        Ok(bdf)
    }

    /// Lets `claims` bind devices with `managed=on` that are added while the guest runs.
    pub fn set_claims(&self, claims: Arc<dyn Claims>) {
        self.plugged.real_host.set_claims(claims);
    }

    /// For a test: devices that are added while the guest runs are those of `host`.
    pub fn set_host_side(&self, host: Arc<dyn HostSide>) {
        self.plugged.set_host(host);
    }

    /// COM1, for the keyboard.
    pub fn serial(&self) -> Arc<Serial> {
        Arc::clone(&self.platform.serial)
    }

    /// The power button, which any thread may press.
    pub fn power_button(&self) -> Arc<PowerButton> {
        Arc::clone(&self.platform.power_button)
    }

    /// The notifier, which carries the guest's events to the main loop.
    pub fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier)
    }

    /// The controls of the VM, for another thread. `asker` is that of the main loop.
    pub fn control(&self, asker: Asker) -> Control {
        Control {
            run: self.run_controls.clone(),
            asker,
            power_button: self.power_button(),
            plug: Arc::downgrade(&self.plugged) as Weak<dyn HotPlug>,
            root: Arc::downgrade(&self.platform.root),
            slots: Arc::downgrade(&self.vm.slots),
            routing: Arc::downgrade(&self.vm.routing),
        }
    }

    /// The counters of the run.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// KVM's memory slots.
    pub fn slots(&self) -> Arc<KvmSlots> {
        Arc::clone(&self.vm.slots)
    }

    /// Runs the guest until it powers off, or until the user, a signal or an error ends the run.
    ///
    /// # Errors
    /// The kernel cannot be loaded again, RAM cannot be mapped for the devices, or KVM cannot go on
    /// with the guest.
    pub fn run(&mut self, lifecycle: &mut Lifecycle) -> Result<Exit, MachineError> {
        let end = self.run_to_the_end(lifecycle);
        self.run_controls.end(&end);
        end
    }

    fn run_to_the_end(&mut self, lifecycle: &mut Lifecycle) -> Result<Exit, MachineError> {
        let reset = match self.opening {
            // The thread that opens the devices does it.
            Some(_) => Ok(()),
            None => self.plugged.set_up(&self.config),
        };
        check_calls(&self.opener)?;
        reset?;
        // A weak reference: the root bus owns the statistics, so the statistics must not own
        // anything that owns the root bus.
        let coalesced = Arc::downgrade(&self.platform.coalesced);
        self.stats
            .set_coalesced(move || coalesced.upgrade().map_or(0, |c| c.applied()));
        let end = self.run_boots(lifecycle);
        self.platform.serial.flush();
        end
    }

    /// Boots the guest, again after each reset, until the run ends.
    fn run_boots(&mut self, lifecycle: &mut Lifecycle) -> Result<Exit, MachineError> {
        loop {
            // Mapping or opening may have failed while the guest was being reset.
            self.ram_setup.check()?;
            self.opening.iter().try_for_each(Opening::check)?;
            let paused = self.ram_setup.pause();
            self.opener.set_stopping(false);
            let mut running = self.start()?;
            drop(paused);
            self.run_controls.events.boot();
            let end = wait_for_end(lifecycle, &self.run_controls.devices_open);
            self.opener.set_stopping(true);
            if matches!(end, Ok(End::Signal(_) | End::Quit)) {
                self.opener.give_up_soon();
            }
            self.vcpus = running.stop()?;
            if matches!(end, Ok(End::Guest(GuestEvent::Broken(_)))) {
                self.opening.iter().try_for_each(Opening::check)?;
            }
            check_calls(&self.opener)?;
            info!("{}", self.stats.exits);
            let coalesced = self.platform.coalesced.applied();
            info!("writes without an exit: {coalesced}");
            let end = end.map_err(MachineError::Loop)?;
            if let Some(exit) = exit_of(end, &self.config, &mut self.ram_setup)? {
                return end_with(exit, self.opening.as_ref(), lifecycle);
            }
            if self.reset(lifecycle)? {
                return Ok(Exit::Asked);
            }
        }
    }

    /// Loads the kernel, sets vCPU 0 to its entry, and starts all vCPUs.
    fn start(&mut self) -> Result<Running, MachineError> {
        let (memory, layout) = (self.vm.ram.memory(), &self.platform.resources.layout);
        let cmdline = &self.config.cmdline;
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => self.images.load_files(memory, layout, cmdline)?,
        };
        let tables = phase!("load_tables");
        mptable::write(memory, &self.config.cpus.topology)?;
        let acpi = &self.platform.acpi;
        let entry = self
            .images
            .load_rest(loaded, memory, layout, cmdline, acpi)?;
        drop(tables);
        debug!(?entry, "loaded");
        let _phase = phase!("start_vcpus");
        let boot = CpuState::new(&entry);
        if let Some(first) = self.vcpus.first() {
            first.enter(&boot)?;
        }
        let resources = &self.platform.resources;
        let devices = Arc::clone(&self.plugged.devices);
        let faults = DeviceFaults::new(
            Box::new(move || devices.functions_and_left()),
            Arc::clone(&resources.space),
            self.vcpus.len(),
        );
        let shared = Shared {
            bus: Arc::clone(&resources.bus),
            coalesced: Arc::clone(&self.platform.coalesced),
            dma_ready: Arc::clone(&resources.dma_ready),
            devices_open: Arc::clone(&self.run_controls.devices_open),
            notifier: Arc::clone(&self.notifier),
            pause: Arc::clone(&self.run_controls.pause),
            exits: Arc::clone(&self.stats.exits),
            ram: self.vm.ram.areas().into(),
            memory_faults: Arc::new(faults),
        };
        Ok(Running::start(mem::take(&mut self.vcpus), &shared)?)
    }

    /// Brings the whole VM to its power-on state. No vCPU is running. Returns whether the user has
    /// ended the run meanwhile.
    fn reset(&self, lifecycle: &mut Lifecycle) -> Result<bool, MachineError> {
        info!("reset with slots={}", self.vm.slots.in_use());
        let devices = &self.plugged.devices;
        // No device comes or goes meanwhile. One that is being opened or added may take long.
        let Some(_changing) = wait_between_boots(lifecycle, || devices.try_changing())? else {
            return Ok(true);
        };
        // A late event of the ended boot must not end the next boot.
        self.notifier.take();
        // The interrupt controllers come first: a device may assert its pin as soon as it is reset,
        // and the controllers must be in their power-on state then.
        self.vm.irqchip.write(&self.vm.fd)?;
        let by = (&*self.opener, &*self.notifier);
        if reset_devices(lifecycle, by, &devices.functions())? {
            return Ok(true);
        }
        self.platform.reset();
        // The vCPUs come last: their reset clears the local APICs of messages that the devices sent
        // before their own reset.
        self.vcpus.iter().try_for_each(Vcpu::reset)?;
        Ok(false)
    }
}

/// Takes the machine down in the reverse order of [`Machine::new`]: stops the devices, unmaps the
/// guest's memory for DMA, and closes the devices; the VM goes last.
impl Drop for Machine {
    fn drop(&mut self) {
        // The error has been logged. `close` has returned it already, if anybody wants it.
        let _ = self.close();
    }
}

impl Machine {
    /// Gives everything back to the host. Dropping the machine does the same.
    ///
    /// # Errors
    /// The IOMMU has not given up a part of the guest's memory. Closing the devices ends that map
    /// too, but the kernel has a fault. Or a call for a device has not ended.
    pub fn close(&mut self) -> Result<(), MachineError> {
        // Before anything that waits for the devices.
        if self.opening.as_ref().is_some_and(Opening::goes_on) {
            self.opener.give_up_soon();
        }
        self.opening = None;
        self.plugged.stop();
        self.plugged.devices.detach(&self.platform.root);
        self.ram_setup.stop();
        // A container loses its IOMMU with its last device, so the memory is unmapped before.
        let lost = self.plugged.maps.close();
        self.plugged.devices.close();
        check_calls(&self.opener)?;
        lost.map_or(Ok(()), |lost| Err(MemoryError::Dma(lost).into()))
    }
}
