//! The guest's passed-through devices: puts them on bus 0 or behind root ports, watches them, and
//! removes them again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use pci::bar::Bars;
use pci::position::Position;
use pci::tree_assignment::{TreeFunction, assign_tree};
use pci::{Bdf, RootBus};
use tracing::info;
use vmm_sys_util::eventfd::EventFd;

use crate::config::VmConfig;
use crate::config::slots::GuestAddress;
use crate::event_thread::EventThread;
use crate::gsi::emulated::EmulatedInterrupts;
use crate::layout;
use crate::layout::Layout;
use crate::machine::device_events::{self, Release};
use crate::machine::error::MachineError;
use crate::machine::ports::Ports;
use crate::memory::dma::Dma;
use crate::phase;
use crate::stats::Stats;
use crate::stats::named_ranges::NamedFunction;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::{FunctionOptions, VfioFunction, VmResources};
use crate::vfio::open::{Opened, VfioError};

/// A passed-through function on a bus of the guest.
struct Attached {
    /// The function's address as firmware numbers the buses, once it has.
    bdf: Bdf,
    /// The address of the root port above the function; `None` on bus 0.
    port: Option<Bdf>,
    function: Arc<VfioFunction>,
}

/// The passed-through functions and root ports on the guest's buses, and the thread that handles
/// the events of their devices.
pub(super) struct Devices {
    functions: Vec<Attached>,
    ports: Ports,
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
    pub fn new(
        opened: Option<&Opened>,
        interrupts: Arc<EmulatedInterrupts>,
    ) -> Result<Self, MachineError> {
        let in_use = opened.map_or(0, |opened| opened.devices.len());
        Ok(Self {
            functions: Vec::new(),
            ports: Ports::new(interrupts),
            event_thread: Arc::new(
                EventThread::new("device events").map_err(MachineError::Descriptors)?,
            ),
            events: Vec::new(),
            in_use: Arc::new(AtomicUsize::new(in_use)),
        })
    }

    /// Counts one more open device.
    pub fn add_open(&self) {
        self.in_use.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts an open device at `address`.
    pub fn attach(
        &mut self,
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
                let above = self.ports.at(slot, options.path, to.root)?;
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
        to.stats.set_wakeups(device.name(), function.wakeups());
        let (pin, gsi) = pin_and_gsi(bdf, port);
        function.connect_pin(pin, gsi, Arc::downgrade(&self.event_thread));
        self.functions.push(Attached {
            bdf,
            port,
            function: Arc::clone(&function),
        });
        let release = Release {
            space: Arc::clone(&to.resources.space),
            dma: to.dma.cloned(),
            in_use: Arc::clone(&self.in_use),
        };
        let events = device_events::watch(&self.event_thread, &device, &function, release)?;
        self.events.extend(events);
        Ok(bdf)
    }

    /// Does what firmware does before it starts the guest: adds the empty root ports, and gives
    /// every BAR and every port its addresses.
    pub fn set_up(
        &mut self,
        config: &VmConfig,
        layout: &Layout,
        root: &RootBus,
    ) -> Result<(), MachineError> {
        self.add_empty_ports(config, root)?;
        self.assign_bars(layout)
    }

    /// Puts the empty root ports on the root bus, beside the devices.
    fn add_empty_ports(&mut self, config: &VmConfig, root: &RootBus) -> Result<(), MachineError> {
        if config.ports.count == 0 {
            return Ok(());
        }
        let (_, empty) = config.addresses().map_err(VfioError::from)?;
        let ports = &mut self.ports;
        empty
            .into_iter()
            .try_for_each(|slot| ports.add_empty(slot, config.ports.reserve, root))
    }

    /// Gives every BAR its address at power-on, and every root port its bus numbers and windows, as
    /// firmware does.
    fn assign_bars(&mut self, layout: &Layout) -> Result<(), MachineError> {
        let functions = self.functions.iter();
        let mut all: Vec<Bars> = functions.map(|f| f.function.bars()).collect();
        let functions = self.functions.iter().zip(&mut all);
        let functions = functions.map(|(attached, bars)| TreeFunction {
            name: attached.bdf,
            port: attached.port,
            bars,
        });
        let ports: Vec<_> = self.ports.iter().map(|p| (p.bdf, p.reserve)).collect();
        let setups = assign_tree(functions.collect(), &ports, &layout.windows())?;
        self.ports.set_power_on(&setups);
        for (attached, bars) in self.functions.iter_mut().zip(all) {
            attached.function.set_reset_bars(bars);
            let index = ports.iter().position(|(p, _)| Some(*p) == attached.port);
            if let Some(setup) = index.and_then(|index| setups.get(index)) {
                attached.bdf.bus = setup.secondary;
            }
        }
        Ok(())
    }

    /// The functions and the addresses of the root ports, for the names of their registers.
    pub fn named(&self) -> (Vec<NamedFunction>, Vec<Bdf>) {
        let above = |bdf| self.ports.iter().find(|port| Some(port.bdf) == bdf);
        let functions = self.functions.iter().map(|attached| NamedFunction {
            bdf: attached.bdf,
            function: Arc::downgrade(&attached.function),
            upstream: above(attached.port).map(|above| Arc::clone(above.port.upstream())),
        });
        (
            functions.collect(),
            self.ports.iter().map(|p| p.bdf).collect(),
        )
    }

    /// The functions with their addresses, without keeping a function alive.
    pub fn weak_with_addresses(&self) -> Vec<(Bdf, Weak<VfioFunction>)> {
        let functions = self.functions.iter();
        functions
            .map(|attached| (attached.bdf, Arc::downgrade(&attached.function)))
            .collect()
    }

    /// The functions.
    pub fn functions(&self) -> Vec<Arc<VfioFunction>> {
        let functions = self.functions.iter();
        functions.map(|f| Arc::clone(&f.function)).collect()
    }

    /// Stops watching the devices, stops their interrupts and DMA, and removes them from the
    /// guest's bus. The devices stay open.
    pub fn detach(&self, root: &RootBus) {
        self.event_thread.stop();
        for attached in &self.functions {
            attached.function.quiesce();
            if attached.port.is_none() {
                root.remove(attached.bdf.device, attached.bdf.function);
            }
        }
        self.ports.detach(root);
    }

    /// Closes the devices, which are quiet already. No mapped page keeps a device's file open.
    pub fn close(&mut self) {
        for attached in self.functions.drain(..) {
            attached.function.close();
        }
    }
}

/// The pin that a function shows (0 is INTA), and the GSI to which the pin leads. A port passes the
/// pins behind it on as its own: pin p of device d as pin (p + d) mod 4, and d is 0 on a link
/// (PCI-to-PCI Bridge Architecture 1.2, 9.1; PCI Express 6.0, 2.2.8.1).
fn pin_and_gsi(bdf: Bdf, port: Option<Bdf>) -> (u8, u32) {
    let pin = bdf.function % layout::INTX_PINS;
    let on_root = port.map_or(pin, |_| (pin + bdf.device) % layout::INTX_PINS);
    let device = port.unwrap_or(bdf).device;
    (pin, layout::gsi_of_pin(device, on_root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_behind_a_port_are_the_ports() {
        let at = |bus, device, function| Bdf {
            segment: 0,
            bus,
            device,
            function,
        };
        assert_eq!(pin_and_gsi(at(0, 5, 1), None), (1, 16 + 2));
        // INTA of function 0, and INTD of function 7, behind the port at 05.3.
        assert_eq!(pin_and_gsi(at(1, 0, 0), Some(at(0, 5, 3))), (0, 16 + 1));
        assert_eq!(pin_and_gsi(at(1, 0, 7), Some(at(0, 5, 3))), (3, 16));
    }
}
