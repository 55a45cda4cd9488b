//! Runs a guest to its end, under a time limit, while the test watches from another thread.

use std::cell::Cell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};
use std::{panic, thread};

use mini_vmm::report::Report;
use vmm::config::cpus::CpuConfig;
use vmm::config::device::{DeviceConfig, PortChoice, RomConfig};
use vmm::config::mechanisms::Mechanisms;
use vmm::config::memory::MemoryConfig;
use vmm::config::ports::{self, PortsConfig};
use vmm::config::topology::Topology;
use vmm::config::{Iommu, Statistics, VmConfig};
use vmm::control::Control;
use vmm::counters::exits::Exits;
use vmm::devices::power_button::PowerButton;
use vmm::devices::serial::Serial;
use vmm::guest_event::{GuestEvent, Notifier};
use vmm::lifecycle::Lifecycle;
use vmm::log::phases::{Clock, Phases};
use vmm::machine::{Exit, Machine, MachineError, OpenBeside};
use vmm::memory::dma::Dma;
use vmm::memory::dma_mapper::DmaMapper;
use vmm::memory::kvm_slots::KvmSlots;
use vmm::vcpu::devices_open::DevicesOpen;
use vmm::vfio::kernel_calls::opener_here;
use vmm::vfio::open::VfioError;
use vmm::vfio::opener::Opener;

use crate::common::asm::Asm;
use crate::common::elf;
use crate::device::FakeDevice;
use crate::plug_host::PlugHost;

/// More than any guest here needs, even on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What the guest has printed so far.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().unwrap()).into_owned()
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().extend_from_slice(data);
        self.0.1.notify_all();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static MECHANISMS: Cell<Mechanisms> = const { Cell::new(Mechanisms::ALL) };
}

/// Runs `test`, whose devices have these mechanisms if it does not choose others.
pub fn with_mechanisms(mechanisms: Mechanisms, test: impl FnOnce()) {
    MECHANISMS.set(mechanisms);
    test();
    MECHANISMS.set(Mechanisms::ALL);
}

/// The mechanisms of this thread's test.
pub fn mechanisms() -> Mechanisms {
    MECHANISMS.get()
}

/// The configuration of a VM.
pub struct Vm {
    guest: Asm,
    devices: Vec<(Arc<FakeDevice>, DeviceConfig)>,
    no_reboot: bool,
    topology: Topology,
    nested: bool,
    pmu: bool,
    memory: MemoryConfig,
    statistics: Statistics,
    ports: PortsConfig,
    host: Option<Arc<PlugHost>>,
    opener: Option<Arc<Opener>>,
    opens: Option<Arc<Opens>>,
}

/// Devices that are opened beside the guest, when the test says so.
pub struct Opens {
    devices: Vec<(Arc<FakeDevice>, DeviceConfig)>,
    /// After this time all vCPUs are frozen.
    patience: Option<Duration>,
    /// The IOMMU of the devices.
    iommu: Option<Arc<dyn DmaMapper>>,
    /// Whether opening succeeds.
    outcome: OnceLock<bool>,
}

impl Opens {
    pub fn new(
        devices: &[(&Arc<FakeDevice>, DeviceConfig)],
        patience: Option<Duration>,
    ) -> Arc<Self> {
        let devices = devices.iter();
        let devices = devices.map(|(device, config)| (Arc::clone(device), config.clone()));
        Arc::new(Self {
            devices: devices.collect(),
            patience,
            iommu: None,
            outcome: OnceLock::new(),
        })
    }

    /// The same for one device, whose IOMMU maps the guest's memory.
    pub fn by_iommu(
        device: &Arc<FakeDevice>,
        config: DeviceConfig,
        iommu: Arc<dyn DmaMapper>,
    ) -> Arc<Self> {
        Arc::new(Self {
            devices: vec![(Arc::clone(device), config)],
            patience: None,
            iommu: Some(iommu),
            outcome: OnceLock::new(),
        })
    }

    /// The kernel has opened the devices.
    pub fn open(&self) {
        self.outcome.set(true).unwrap();
    }

    /// The kernel has refused a device.
    pub fn fail(&self) {
        self.outcome.set(false).unwrap();
    }

    /// Waits for the kernel. The end of the run ends the wait, as in the opener.
    fn wait(&self, latch: &DevicesOpen) -> Result<OpenBeside, MachineError> {
        self.patience.inspect(|time| latch.set_patience(*time));
        while self.outcome.get().is_none() && !latch.is_over() {
            thread::sleep(Duration::from_micros(100));
        }
        match self.outcome.get() {
            Some(true) => {
                let devices = self.devices.iter();
                let devices = devices.map(|(device, _)| device.clone() as _).collect();
                let dma = self.iommu.clone().map(|iommu| {
                    let dma = Dma::new(iommu, 0, false, Arc::default());
                    Arc::new(dma)
                });
                Ok((devices, dma))
            }
            _ => Err(VfioError::BadAddress("the kernel refuses".into()).into()),
        }
    }
}

/// How a run ended.
pub struct Ended {
    pub exit: Result<Exit, MachineError>,
    pub text: String,
    pub exits: Arc<Exits>,
    /// The report of `--stats`.
    pub report: Report,
    /// KVM's memory slots in use before the guest's first instruction and after its last.
    pub slots: (usize, usize),
}

/// A running guest, as a test on another thread has it.
pub struct Live {
    output: Output,
    serial: Arc<Serial>,
    exits: Arc<Exits>,
    slots: Arc<KvmSlots>,
    notifier: Arc<Notifier>,
    pub power_button: Arc<PowerButton>,
    pub control: Control,
}

impl Vm {
    pub fn new(guest: Asm) -> Self {
        Self {
            guest,
            devices: Vec::new(),
            no_reboot: false,
            topology: Topology::default(),
            nested: false,
            pmu: true,
            memory: MemoryConfig::new(64 << 20),
            statistics: Statistics::Off,
            ports: PortsConfig::default(),
            host: None,
            opener: None,
            opens: None,
        }
    }

    /// Devices that are opened beside the guest.
    pub fn opens(mut self, opens: &Arc<Opens>) -> Self {
        self.opens = Some(Arc::clone(opens));
        self
    }

    /// Sets the host from which devices are added while the guest runs.
    pub fn host(mut self, host: &Arc<PlugHost>) -> Self {
        self.host = Some(Arc::clone(host));
        self
    }

    /// Calls that may sleep are made by this opener's process.
    pub fn opener(mut self, opener: &Arc<Opener>) -> Self {
        self.opener = Some(Arc::clone(opener));
        self
    }

    /// Adds empty root ports, as `--ports` does.
    pub fn ports(mut self, ports: &str) -> Self {
        self.ports = ports::parse(ports).expect("ports");
        self
    }

    /// Adds the device in the first free slot, from 1 on.
    pub fn device(mut self, device: &Arc<FakeDevice>) -> Self {
        let config = DeviceConfig {
            mechanisms: mechanisms(),
            ..DeviceConfig::default()
        };
        self.devices.push((device.clone(), config));
        self
    }

    /// Adds the device with these mechanisms, as `--vfio ADDR,mmap=,irqfd=` does.
    pub fn device_with(mut self, device: &Arc<FakeDevice>, mechanisms: Mechanisms) -> Self {
        let config = DeviceConfig {
            mechanisms,
            ..DeviceConfig::default()
        };
        self.devices.push((device.clone(), config));
        self
    }

    /// Adds the device in this slot, as `--vfio ADDR,slot=` does.
    pub fn device_at(mut self, device: &Arc<FakeDevice>, slot: &str) -> Self {
        let config = DeviceConfig {
            slot: Some(slot.parse().expect("a slot")),
            ..DeviceConfig::default()
        };
        self.devices.push((device.clone(), config));
        self
    }

    /// Adds the device behind a root port in this slot, as `--vfio ADDR,port=on,slot=` does.
    pub fn device_behind_port(self, device: &Arc<FakeDevice>, slot: &str) -> Self {
        self.function_behind_port(device, slot, "01:00.0")
    }

    /// The same, with the host's address of the function.
    pub fn function_behind_port(
        mut self,
        device: &Arc<FakeDevice>,
        slot: &str,
        host: &str,
    ) -> Self {
        let config = DeviceConfig {
            address: host.into(),
            slot: Some(slot.parse().expect("a slot")),
            port: PortChoice::On,
            ..DeviceConfig::default()
        };
        self.devices.push((device.clone(), config));
        self
    }

    /// Adds the device in this clique, as `--vfio ADDR,clique=` does.
    pub fn device_in_clique(mut self, device: &Arc<FakeDevice>, clique: u8) -> Self {
        let config = DeviceConfig {
            clique: Some(clique),
            ..DeviceConfig::default()
        };
        self.devices.push((device.clone(), config));
        self
    }

    /// Adds the device with this expansion ROM, as `--vfio ADDR,rombar=` and `romfile=` do.
    pub fn device_with_rom(mut self, device: &Arc<FakeDevice>, rom: RomConfig) -> Self {
        let config = DeviceConfig {
            rom,
            ..DeviceConfig::default()
        };
        self.devices.push((device.clone(), config));
        self
    }

    pub fn no_reboot(mut self) -> Self {
        self.no_reboot = true;
        self
    }

    pub fn cpus(self, cpus: u8) -> Self {
        let plain = CpuConfig::new(cpus.into()).expect("a few");
        self.topology(plain.topology)
    }

    /// As with `--cpus N,sockets=`.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// As with `--cpus N,nested=,pmu=`.
    pub fn switches(mut self, nested: bool, pmu: bool) -> Self {
        (self.nested, self.pmu) = (nested, pmu);
        self
    }

    /// As with `--memory`.
    pub fn memory(mut self, memory: MemoryConfig) -> Self {
        self.memory = memory;
        self
    }

    /// As with `--stats`.
    pub fn measured(mut self) -> Self {
        self.statistics = Statistics::Table;
        self
    }

    fn config(&self) -> VmConfig {
        VmConfig {
            kernel: PathBuf::new(),
            initrd: None,
            cmdline: "console=ttyS0".into(),
            cpus: CpuConfig {
                topology: self.topology,
                nested: self.nested,
                pmu: self.pmu,
                ..CpuConfig::new(1).expect("one")
            },
            memory: self.memory,
            vfio: Vec::new(),
            ports: self.ports,
            iommu: Iommu::default(),
            kvm: None,
            no_reboot: self.no_reboot,
            statistics: self.statistics.clone(),
        }
    }

    /// Makes the VM, whose bus must refuse the device.
    #[track_caller]
    pub fn refused(self, device: Arc<FakeDevice>) -> MachineError {
        let config = self.config();
        let file = elf::TempFile::new(&elf::image(&self.guest.finish()));
        let config = VmConfig {
            kernel: file.path().into(),
            ..config
        };
        let mut machine = Machine::new(config, Box::new(Output::default())).expect("a VM");
        let added = machine.add_device(device, &DeviceConfig::default());
        added.expect_err("the device is refused")
    }

    /// Fails to make the VM.
    pub fn not_made(self) -> MachineError {
        let config = self.config();
        let file = elf::TempFile::new(&elf::image(&self.guest.finish()));
        let config = VmConfig {
            kernel: file.path().into(),
            ..config
        };
        match Machine::new(config, Box::new(Output::default())) {
            Ok(_) => panic!("the VM is made"),
            Err(e) => e,
        }
    }

    pub fn run(self) -> Ended {
        self.run_beside(|_| ())
    }

    /// Runs the guest on this thread and `beside` on another.
    pub fn run_beside(self, beside: impl FnOnce(&Live) + Send) -> Ended {
        let config = self.config();
        let file = elf::TempFile::new(&elf::image(&self.guest.finish()));
        let config = VmConfig {
            kernel: file.path().into(),
            ..config
        };
        let output = Output::default();
        let opener = self.opener.unwrap_or_else(opener_here);
        let machine = Machine::with_opener(config, Box::new(output.clone()), opener);
        let mut machine = machine.expect("a VM");
        for (device, config) in self.devices {
            machine
                .add_device(device, &config)
                .expect("a slot for the device");
        }
        if let Some(host) = self.host {
            machine.set_host_side(host);
        }
        if let Some(opens) = self.opens {
            let configs = opens.devices.iter().map(|(_, config)| config.clone());
            let opened = machine.open_beside(configs.collect(), move |latch| opens.wait(latch));
            opened.expect("slots for the devices");
        }
        let notifier = machine.notifier();
        let mut lifecycle = Lifecycle::new(notifier.clone(), None).unwrap();
        let live = Live {
            output,
            serial: machine.serial(),
            exits: Arc::clone(&machine.stats().exits),
            slots: machine.slots(),
            notifier: machine.notifier(),
            power_button: machine.power_button(),
            control: machine.control(lifecycle.asker().unwrap()),
        };
        let before = live.slots.in_use();
        let exit = thread::scope(|scope| {
            let _limit = TimeLimit::new(notifier.clone());
            let beside = scope.spawn(|| {
                panic::catch_unwind(panic::AssertUnwindSafe(|| beside(&live)))
                    .inspect_err(|_| notifier.notify(GuestEvent::Broken("the test failed".into())))
            });
            let exit = machine.run(&mut lifecycle);
            if let Err(panic) = beside.join().unwrap() {
                panic::resume_unwind(panic);
            }
            exit
        });
        Ended {
            exit,
            text: live.output.text(),
            report: Report::new(&machine.stats(), &Phases::new(Clock::start())),
            exits: live.exits,
            slots: (before, live.slots.in_use()),
        }
    }
}

/// Ends a run that takes too long. Dropping this lifts the limit.
struct TimeLimit {
    _alive: mpsc::Sender<()>,
}

impl TimeLimit {
    fn new(notifier: Arc<Notifier>) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut wait = TIME_LIMIT;
            while receiver.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
                notifier.notify(GuestEvent::Broken("time limit".into()));
                // A reset may have discarded the event.
                wait = Duration::from_millis(100);
            }
        });
        Self { _alive: sender }
    }
}

impl Live {
    /// Waits until the guest has printed `text`.
    pub fn wait_for(&self, text: &str) {
        let (lock, changed) = &*self.output.0;
        let seen = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        let guard = lock.lock().unwrap();
        let (guard, wait) = changed
            .wait_timeout_while(guard, TIME_LIMIT, |bytes| !seen(bytes))
            .unwrap();
        let printed = String::from_utf8_lossy(&guard);
        assert!(!wait.timed_out(), "waiting for {text:?}, got {printed:?}");
    }

    /// How often the guest has printed `text` by now.
    pub fn count_of(&self, text: &str) -> usize {
        self.output.text().matches(text).count()
    }

    /// Types the key that the guest waits for.
    pub fn press_key(&self) {
        // The UART may be locked by the guest at this moment.
        eventually("the key is taken", || self.serial.type_in(b"k") == 1);
    }

    /// Ends the run as if the guest had powered off.
    pub fn end(&self) {
        self.notifier.notify(GuestEvent::PowerOff);
    }

    /// Ends the run as the user does.
    pub fn quit(&self) {
        self.control.shut_down();
    }

    /// Resets the VM as if the guest had asked for it.
    pub fn reset(&self) {
        self.notifier.notify(GuestEvent::Reset);
    }

    /// Port and memory exits so far.
    pub fn exits(&self) -> (u64, u64) {
        counts(&self.exits)
    }

    /// KVM's memory slots in use now.
    pub fn slots(&self) -> usize {
        self.slots.in_use()
    }

    /// A function that returns the same number on any thread.
    pub fn slot_counter(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let slots = Arc::clone(&self.slots);
        move || slots.in_use()
    }
}

impl Ended {
    /// Checks that the guest powered off; returns what the guest printed.
    #[track_caller]
    pub fn powered_off(self) -> String {
        match self.exit {
            Ok(Exit::PowerOff) => self.text,
            other => panic!("{other:?}, after the guest printed {:?}", self.text),
        }
    }

    /// The numbers that the guest printed before it powered off.
    #[track_caller]
    pub fn numbers(self) -> Vec<u32> {
        let text = self.powered_off();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(|line| u32::from_str_radix(line, 16).unwrap_or_else(|_| panic!("{text:?}")))
            .collect()
    }

    /// Port and memory exits of the whole run.
    pub fn exits(&self) -> (u64, u64) {
        counts(&self.exits)
    }
}

fn counts(exits: &Exits) -> (u64, u64) {
    (exits.pio(), exits.mmio())
}

/// Waits until something becomes true.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIME_LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "waiting in vain: {what}");
        thread::sleep(Duration::from_micros(100));
    }
}
