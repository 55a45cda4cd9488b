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
//! | `devices`, `device_events` | puts the open devices on the guest's bus and watches them |
//! | `plugged` | devices that come and go while the guest runs |
//! | `ends` | the end of a boot: the end of the run, or another boot |
//!
//! [`Machine::run`] then gives every BAR an address and starts the vCPUs. When the guest resets the
//! machine, it boots again.

mod capabilities;
mod create;
mod device_events;
mod devices;
mod ends;
mod error;
mod later_devices;
pub(crate) mod maps;
mod memory_faults;
mod open_devices;
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

pub use error::MachineError;
pub use later_devices::mappable;
use pci::Bdf;
use pci::host_path::HostPath;
use pci::position::Position;
use tracing::{debug, info, warn};

use crate::boot::cpu_state::CpuState;
use crate::boot::{Images, Loaded, mptable};
use crate::config::device::DeviceConfig;
use crate::config::slots::{self, GuestAddress};
use crate::config::{Statistics, VmConfig};
use crate::control::{Control, RunControls};
use crate::devices::output_queue::Output;
use crate::devices::power_button::PowerButton;
use crate::devices::serial::Serial;
pub use crate::exit::Exit;
use crate::guest_event::{GuestEvent, Notifier};
use crate::lifecycle::{Asker, Lifecycle};
use crate::machine::create::create_vm;
use crate::machine::ends::exit_of;
use crate::machine::memory_faults::DeviceFaults;
use crate::machine::open_devices::{check_calls, connect_iommu, open_beside};
use crate::machine::platform::Platform;
use crate::machine::plugged::Plugged;
use crate::machine::preflight::check_memory_lock;
use crate::machine::ram_setup::RamSetup;
use crate::machine::real_host::RealHost;
use crate::machine::vcpus::make_vcpus_and_load;
use crate::machine::vm::Vm;
use crate::memory::dma::Dma;
use crate::memory::error::MemoryError;
use crate::memory::kvm_slots::KvmSlots;
use crate::phase;
use crate::plug::HotPlug;
use crate::plug::host_side::{Claims, HostSide};
use crate::stats::{Stats, named_ranges};
use crate::sys::{bus_error, notify};
use crate::vcpu::Vcpu;
use crate::vcpu::shared::Shared;
use crate::vcpu::threads::Running;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::rom::RomSource;
use crate::vfio::function::{FunctionOptions, reset};
use crate::vfio::kernel_calls::opener_here;
use crate::vfio::open::{DeviceSet, Opened, VfioError};
use crate::vfio::opener::Opener;

/// A VM with its devices.
pub struct Machine {
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
        let mut ram_setup = RamSetup::start(&vm.ram, &config.memory, &candidates, &notifier)?;
        let beside = || make_vcpus_and_load(&kvm, &vm, &config, &images);
        let set = DeviceSet::new(Some(Arc::clone(&vm.fd)), config.iommu, &opener);
        let (opened, (vcpus, loaded), paused) = open_beside(&set, &candidates, &ram_setup, beside)?;
        let interface = opened.as_ref().map(|opened| opened.interface);
        check_memory_lock(config.memory.size, &candidates, interface)?;
        // The IOMMU lets the devices reach the guest's memory and nothing else. The thread that
        // populates RAM maps RAM too.
        port_choice::fit(&mut config, decisions, opened.as_ref(), &vm.layout);
        let (layout, dma) = connect_iommu(&vm, opened.as_ref(), kvm.reach, &config, &stats)?;
        dma.iter().for_each(|dma| ram_setup.map(Arc::clone(dma)));
        let map = (layout, &config.cpus.topology, ram_setup.ready());
        let platform = Platform::new(&vm, map, &vcpus, &stats, &notifier, output)?;
        let run_controls = RunControls::default();
        let began = opened.as_ref().zip(dma.as_ref());
        let host = RealHost::new((&vm, &platform), &config, (set, began), &stats);
        let plugged = Plugged::new(&vm, &platform, &stats, &run_controls, host)?;
        let mut machine = Self {
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
        machine.attach_all(opened, roms, dma)?;
        drop(paused);
        machine.ram_setup.wait()?;
        Ok(machine)
    }

    /// Puts the opened devices on their buses, in the order of `--vfio`.
    fn attach_all(
        &mut self,
        opened: Option<Opened>,
        roms: Vec<RomSource>,
        dma: Option<Arc<Dma>>,
    ) -> Result<(), MachineError> {
        let (addresses, _) = self.config.addresses().map_err(VfioError::from)?;
        for (config, address) in self.config.vfio.iter_mut().zip(&addresses) {
            config.slot = Some(address.slot);
        }
        let devices = opened.into_iter().flat_map(|opened| opened.devices);
        let devices: Vec<SharedDevice> = devices.map(|device| device as SharedDevice).collect();
        let paths = ports::paths(&devices, &addresses)?;
        let configs = self.config.vfio.clone();
        let where_to = addresses.into_iter().zip(paths);
        for (((device, config), rom), at) in
            devices.into_iter().zip(&configs).zip(roms).zip(where_to)
        {
            self.attach(device, config, at, (rom, dma.clone()))?;
        }
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
        let bdf = self.attach(device, config, (address, path), (rom, None))?;
        self.config.vfio.push(DeviceConfig {
            slot: Some(address.slot),
            ..config.clone()
        });
        Ok(bdf)
    }

    fn attach(
        &mut self,
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
        let to = self.plugged.attach_to(dma);
        self.plugged.devices.attach(device, address, options, &to)
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
        let (layout, root) = (&self.platform.resources.layout, &self.platform.root);
        self.plugged.devices.set_up(&self.config, layout, root)?;
        let ecam = layout.ecam();
        let ports = self
            .plugged
            .devices
            .ports()
            .iter()
            .map(|port| port.bdf)
            .collect();
        // Weak, as the reference to the coalesced writes below.
        let devices = Arc::downgrade(&self.plugged.devices);
        let named = move || devices.upgrade().map_or_else(Vec::new, |d| d.named());
        self.stats
            .set_named_ranges(named_ranges::lookup(named, ports, ecam));
        // A weak reference: the root bus owns the statistics, so the statistics must not own
        // anything that owns the root bus.
        let coalesced = Arc::downgrade(&self.platform.coalesced);
        self.stats
            .set_coalesced(move || coalesced.upgrade().map_or(0, |c| c.applied()));
        let reset = reset::before_first_boot(&self.plugged.devices.functions());
        check_calls(&self.opener)?;
        reset?;
        let end = self.run_boots(lifecycle);
        self.platform.serial.flush();
        end
    }

    /// Boots the guest, again after each reset, until the run ends.
    fn run_boots(&mut self, lifecycle: &mut Lifecycle) -> Result<Exit, MachineError> {
        loop {
            // Mapping may have failed while the guest was being reset.
            self.ram_setup.check()?;
            let paused = self.ram_setup.pause();
            self.opener.set_stopping(false);
            let mut running = self.start()?;
            drop(paused);
            self.run_controls.events.boot();
            if let Err(e) = notify::ready() {
                warn!("the service manager is not told that the guest runs: {e}");
            }
            let end = lifecycle.wait();
            self.opener.set_stopping(true);
            self.vcpus = running.stop()?;
            check_calls(&self.opener)?;
            info!("{}", self.stats.exits);
            let coalesced = self.platform.coalesced.applied();
            info!("writes without an exit: {coalesced}");
            let end = end.map_err(MachineError::Loop)?;
            if let Some(exit) = exit_of(end, &self.config, &mut self.ram_setup)? {
                return Ok(exit);
            }
            self.reset()?;
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
            notifier: Arc::clone(&self.notifier),
            pause: Arc::clone(&self.run_controls.pause),
            exits: Arc::clone(&self.stats.exits),
            ram: self.vm.ram.areas().into(),
            memory_faults: Arc::new(faults),
        };
        Ok(Running::start(mem::take(&mut self.vcpus), &shared)?)
    }

    /// Brings the whole VM to its power-on state. No vCPU is running.
    fn reset(&mut self) -> Result<(), MachineError> {
        info!("reset with slots={}", self.vm.slots.in_use());
        // No device comes or goes meanwhile.
        let _changing = self.plugged.devices.changing();
        // A late event of the ended boot must not end the next boot.
        self.notifier.take();
        // The interrupt controllers come first: a device may assert its pin as soon as it is reset,
        // and the controllers must be in their power-on state then.
        self.vm.irqchip.write(&self.vm.fd)?;
        reset::devices(&self.plugged.devices.functions());
        check_calls(&self.opener)?;
        self.platform.reset();
        // The vCPUs come last: their reset clears the local APICs of messages that the devices sent
        // before their own reset.
        self.vcpus.iter().try_for_each(Vcpu::reset)?;
        Ok(())
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
