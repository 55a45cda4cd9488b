//! The guest's root ports: where they are on bus 0, and what firmware has set in them.

use std::sync::Arc;

use pci::bridge_windows::Reserve;
use pci::host_path::HostPath;
use pci::port_setup::PortSetup;
use pci::root_port::PortShape;
use pci::{Bdf, RootBus};
use tracing::info;

use crate::config::device::Slot;
use crate::config::ports::OCCUPIED;
use crate::config::slots::{self, GuestAddress};
use crate::gsi::emulated::EmulatedInterrupts;
use crate::layout;
use crate::machine::error::MachineError;
use crate::port::{Port, PortInterrupts};
use crate::vfio::device::{Device, SharedDevice};
use crate::vfio::host_path;

/// A root port on bus 0.
#[derive(Clone)]
pub(super) struct GuestPort {
    /// The port's address.
    pub bdf: Bdf,
    pub port: Arc<Port>,
    /// The least room in its windows.
    pub reserve: Reserve,
    /// What firmware has set.
    pub setup: PortSetup,
}

/// The root ports, in the order of their addresses. That is the order in which a guest finds them,
/// and so firmware numbers their buses.
pub(super) struct Ports {
    list: Vec<GuestPort>,
    interrupts: Arc<EmulatedInterrupts>,
}

impl Ports {
    /// No ports. Later ones interrupt the guest by `interrupts`.
    pub fn new(interrupts: Arc<EmulatedInterrupts>) -> Self {
        Self {
            list: Vec::new(),
            interrupts,
        }
    }

    /// The port at `slot`, which is made if there is none, for a device. `path` is the way of the
    /// function that comes behind the port to the host's root complex; the port shows what all of
    /// them have.
    ///
    /// # Errors
    /// The address belongs to another function.
    pub fn at(
        &mut self,
        slot: Slot,
        path: HostPath,
        root: &RootBus,
    ) -> Result<&GuestPort, MachineError> {
        self.make(slot, path, OCCUPIED, root)
    }

    /// Makes a port that keeps `reserve` free.
    ///
    /// # Errors
    /// The address belongs to another function.
    pub fn add_empty(
        &mut self,
        slot: Slot,
        reserve: Reserve,
        root: &RootBus,
    ) -> Result<(), MachineError> {
        self.make(slot, HostPath::default(), reserve, root)
            .map(|_| ())
    }

    fn make(
        &mut self,
        slot: Slot,
        path: HostPath,
        reserve: Reserve,
        root: &RootBus,
    ) -> Result<&GuestPort, MachineError> {
        let key = (slot.device, slot.function);
        let found = self
            .list
            .binary_search_by_key(&key, |port| (port.bdf.device, port.bdf.function));
        let index = match found {
            Ok(index) => {
                self.list[index].port.share_path(path);
                index
            }
            Err(index) => {
                let shape = shape(slot, path);
                let interrupts = PortInterrupts {
                    kvm: Arc::clone(&self.interrupts),
                    gsi: layout::gsi_of_pin(slot.device, shape.pin),
                };
                let port = Arc::new(Port::new(shape, interrupts));
                let upstream = Arc::clone(port.upstream());
                let bdf = root.add_port(slot.device, slot.function, port.clone(), upstream)?;
                let setup = PortSetup::default();
                let port = GuestPort {
                    bdf,
                    port,
                    reserve,
                    setup,
                };
                self.list.insert(index, port);
                index
            }
        };
        Ok(&self.list[index])
    }

    /// The ports, in the order of their addresses.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &GuestPort> {
        self.list.iter()
    }

    /// Sets what each port has at power-on.
    pub fn set_power_on(&mut self, setups: &[PortSetup]) {
        for (port, setup) in self.list.iter_mut().zip(setups) {
            port.setup = *setup;
            info!("root port {} has {setup}", port.bdf);
            port.port.set_power_on(setup);
        }
    }

    /// Removes the ports from the bus, with all that is behind them.
    pub fn detach(&self, root: &RootBus) {
        for port in &self.list {
            root.remove(port.bdf.device, port.bdf.function);
        }
    }
}

/// The way of each device to the host's root complex, which the port above it in the guest shows.
/// Functions behind one port have one way. A device on bus 0 is not asked.
///
/// # Errors
/// A device does not answer.
pub(super) fn paths(
    devices: &[SharedDevice],
    addresses: &[GuestAddress],
) -> Result<Vec<HostPath>, MachineError> {
    let own = devices.iter().zip(addresses);
    let own = own.map(|(device, address)| path(&**device, address));
    let own = own.collect::<Result<Vec<_>, _>>()?;
    Ok(slots::paths(&own, addresses))
}

/// The way of one device.
///
/// # Errors
/// As [`paths`].
pub(super) fn path(device: &dyn Device, address: &GuestAddress) -> Result<HostPath, MachineError> {
    match address.behind {
        None => Ok(HostPath::default()),
        Some(_) => Ok(host_path::of(device)?),
    }
}

/// What is fixed about the port at a slot. No two ports of a guest have one number: function 0 of a
/// device has the device's number, and the others follow at distances of 32.
fn shape(slot: Slot, path: HostPath) -> PortShape {
    PortShape {
        path,
        number: slot.function << 5 | slot.device,
        pin: layout::SLOT_PIN,
        hot_plug: true,
    }
}
