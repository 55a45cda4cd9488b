//! The guest's machine without its processors, RAM and passed-through devices.

use std::sync::Arc;

use pci::RootBus;
use pci::access::{self, ConfigPorts, Ecam};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::acpi::{self, AcpiTables};
use crate::bus::Bus;
use crate::coalesced::Coalesced;
use crate::config::topology::Topology;
use crate::devices::output_queue::Output;
use crate::devices::pm_timer::{self, PmTimer};
use crate::devices::power::{self, Power};
use crate::devices::power_button::PowerButton;
use crate::devices::serial::{self, Serial};
use crate::gsi::routing::GsiRouting;
use crate::guest_event::Notifier;
use crate::layout;
use crate::layout::Layout;
use crate::machine::error::MachineError;
use crate::machine::vm::Vm;
use crate::memory::dma_ready::DmaReady;
use crate::phase;
use crate::stats::Stats;
use crate::vcpu::Vcpu;
use crate::vfio::function::VmResources;

/// Buses and emulated devices.
pub(super) struct Platform {
    /// The parts of the VM that each passed-through function uses, such as the bus and the layout.
    pub resources: VmResources,
    pub root: Arc<RootBus>,
    pub ports: Arc<ConfigPorts>,
    pub serial: Arc<Serial>,
    pub power_button: Arc<PowerButton>,
    pub coalesced: Arc<Coalesced>,
    pub acpi: AcpiTables,
}

impl Platform {
    /// Makes the platform of a VM with these vCPUs. COM1 writes to `output`; the guest's power-off
    /// and reset are reported to `notifier`.
    pub fn new(
        vm: &Vm,
        (layout, topology, dma_ready): (Layout, &Topology, Arc<DmaReady>),
        vcpus: &[Vcpu],
        stats: &Arc<Stats>,
        notifier: &Arc<Notifier>,
        output: Output,
    ) -> Result<Self, MachineError> {
        let _phase = phase!("add_platform");
        let bus = Arc::new(Bus::new());
        let root = make_root_bus(stats);
        let ports = Arc::new(ConfigPorts::new(Arc::clone(&root)));
        let serial = make_serial(&vm.routing, output)?;
        let power_button = Arc::new(PowerButton::new(&vm.routing)?);
        let power = Arc::new(Power::new(Arc::clone(notifier)));
        let ecam = Arc::new(Ecam(Arc::clone(&root)));
        bus.insert_pio(layout::PORT_PCI_ADDRESS, access::PORTS, ports.clone())?;
        bus.insert_pio(layout::PORT_SERIAL, serial::PORTS, serial.clone())?;
        bus.insert_pio(power::PORT, power::PORTS, power)?;
        bus.insert_pio(layout::PORT_PM_TIMER, pm_timer::PORTS, Arc::new(PmTimer))?;
        bus.insert_mmio(layout.ecam().start, layout.ecam().size, ecam)?;
        let acpi = acpi::build(&layout, topology)?;
        vcpus.iter().for_each(|vcpu| stats.watch_kvm(vcpu));
        let coalesced = Coalesced::new(&vm.fd, vcpus.first(), bus.clone(), serial.clone());
        let resources = VmResources {
            space: Arc::clone(&vm.space),
            bus,
            routing: Arc::clone(&vm.routing),
            interrupt_thread: Arc::default(),
            zones: Arc::new(coalesced.zones(&vm.fd)),
            layout,
            dma_ready,
        };
        Ok(Self {
            resources,
            root,
            ports,
            serial,
            power_button,
            coalesced: Arc::new(coalesced),
            acpi,
        })
    }

    /// Brings the buses, the emulated devices and the functions on the root bus to their power-on
    /// state.
    pub fn reset(&self) {
        self.root.reset();
        self.ports.reset();
        self.serial.reset();
    }
}

/// The root bus; with `--stats`, accesses to configuration space are counted.
fn make_root_bus(stats: &Arc<Stats>) -> Arc<RootBus> {
    let root = Arc::new(RootBus::new());
    if stats.is_detailed() {
        let stats = Arc::clone(stats);
        root.watch(move |target, write| stats.count_config(target, write));
    }
    root
}

/// COM1, with its interrupt.
fn make_serial(routing: &GsiRouting, output: Output) -> Result<Arc<Serial>, MachineError> {
    let event =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(MachineError::Descriptors)?;
    routing.assign_irqfd(&event, layout::GSI_SERIAL)?;
    Ok(Arc::new(
        Serial::new(event, output).map_err(MachineError::Descriptors)?,
    ))
}
