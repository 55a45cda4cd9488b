//! A PCI Express root port: a bridge from bus 0 to the bus of one device (PCI Express 6.0, 7.5.1.3;
//! PCI-to-PCI Bridge Architecture 1.2).
//!
//! The registers are the whole state, and all of them are virtual: nothing that a guest writes here
//! reaches a port of the host. A write returns what the VMM has to do ([`PortEffect`]).
//!
//! | file | what |
//! | --- | --- |
//! | `shape` | what is fixed about a port |
//! | `windows` | base and limit registers |
//! | `express` | the PCI Express capability |
//! | `effect` | what a write asks of the VMM |
//!
//! The port has the capabilities of PCI Express and of MSI, and no extended configuration space: a
//! guest reads each further capability in some 28 accesses of a boot.

mod effect;
mod express;
mod shape;
mod windows;

pub use effect::PortEffect;
pub use shape::PortShape;

use crate::byte_enable::{overlay, part_of};
use crate::capability::id;
use crate::config_space::{CONVENTIONAL_SIZE, ConfigSpace};
use crate::host_path::HostPath;
use crate::link::Link;
use crate::msi::{Msi, MsiCapability};
use crate::port_setup::PortSetup;
use crate::regs::{self, bridge, command, header_type, status};
use crate::upstream::Forwarding;

/// Device and vendor ID of Red Hat's generic PCI Express root port, which guests know and for which
/// they have no quirk.
const VENDOR_DEVICE: u32 = 0x000c_1b36;
/// Base class 06h bridge, sub-class 04h PCI-to-PCI bridge.
const CLASS_REVISION: u32 = 0x0604_0000;
/// The bits of COMMAND that a guest may change, besides I/O Space Enable. Parity and SERR# have no
/// effect.
const COMMAND_BITS: u16 =
    command::MEMORY | command::BUS_MASTER | command::PARITY | command::SERR | command::INTX_DISABLE;
/// The bits of bridge control that a guest may change. There is neither VGA nor ISA behind a port.
const CONTROL_BITS: u16 = bridge::control::PARITY | bridge::control::SERR | bridge::control::RESET;

/// The MSI capability, with one message.
const MSI: MsiCapability = MsiCapability {
    offset: 0x80,
    address_64: true,
    per_vector_masking: false,
    max_vectors: 1,
};

/// The registers of a root port.
#[derive(Clone, Debug)]
pub struct RootPort {
    shape: PortShape,
    /// Whether the port has a window of I/O ports.
    io: bool,
    config: ConfigSpace,
    /// `config` at power-on, as firmware has set it.
    power_on: ConfigSpace,
    msi: Msi,
    /// Whether there is a device behind the port.
    occupied: bool,
}

impl RootPort {
    /// A port after power-on, with closed windows and without a device. Firmware has not numbered
    /// its bus yet.
    pub fn new(shape: PortShape) -> Self {
        let mut config = header(&shape);
        express::add(&mut config, &shape);
        config.set_u8(express::OFFSET + 1, MSI.offset as u8);
        config.set_u8(MSI.offset, id::MSI as u8);
        windows::set(&mut config, &PortSetup::default());
        let mut port = Self {
            shape,
            io: false,
            power_on: config.clone(),
            config,
            msi: Msi::new(MSI),
            occupied: false,
        };
        port.follow_link();
        port
    }

    /// What is fixed about the port.
    pub fn shape(&self) -> &PortShape {
        &self.shape
    }

    /// Sets the numbers and windows that the port has at power-on, and resets the port. Without
    /// I/O ports in `setup` the port has no such window.
    pub fn set_power_on(&mut self, setup: &PortSetup) {
        self.io = setup.io.is_some();
        set_io(&mut self.power_on, self.io);
        self.power_on.set_u8(bridge::SECONDARY, setup.secondary);
        self.power_on.set_u8(bridge::SUBORDINATE, setup.subordinate);
        windows::set(&mut self.power_on, setup);
        self.reset();
    }

    /// Sets what the port shows of the host's way to the device that comes behind it. Device
    /// Control stays as the guest has it until the next reset.
    pub fn set_path(&mut self, path: HostPath) {
        self.shape.path = path;
        express::set_path(&mut self.config, &self.shape);
        express::set_path(&mut self.power_on, &self.shape);
        express::set_payload(&mut self.power_on, &self.shape);
        self.follow_link();
    }

    /// Whether an access touches Link Status, which follows the link of the device behind the port.
    pub fn shows_link(offset: u16, len: usize) -> bool {
        express::shows_link(offset, len)
    }

    /// Sets what the link has now. What it has at most stays.
    pub fn set_link(&mut self, link: Link) {
        self.shape.path.link = self.shape.path.link.at(&link);
        self.follow_link();
    }

    /// Sets whether there is a device behind the port.
    pub fn set_occupied(&mut self, occupied: bool) {
        self.occupied = occupied;
        self.follow_link();
    }

    /// Sets all registers to their values at power-on.
    pub fn reset(&mut self) {
        self.config = self.power_on.clone();
        self.msi.reset();
        self.follow_link();
    }

    /// Reads any registers.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
        overlay(MSI.offset, MSI.size(), offset, data, |first, part| {
            self.msi.capability_read(first, part, &|_| false);
        });
    }

    /// A guest's write of any registers. Returns what follows from the write.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Vec<PortEffect> {
        let before = self.forwarding();
        self.config.write(offset, data);
        if let Some((first, part)) = part_of(MSI.offset, MSI.size(), offset, data) {
            self.msi.capability_write(first, part);
        }
        self.follow_link();
        let now = self.forwarding();
        let mut effects = Vec::new();
        if now != before {
            effects.push(PortEffect::Forward(now));
        }
        if before.link_up && !now.link_up {
            effects.push(PortEffect::Reset);
        }
        effects
    }

    /// What the port lets through by its registers.
    pub fn forwarding(&self) -> Forwarding {
        let command = self.config.u16(regs::COMMAND);
        let if_set = |bit, windows| {
            if command & bit != 0 {
                windows
            } else {
                [None; 2]
            }
        };
        let [io, _] = if_set(command::IO, [windows::io(&self.config), None]);
        Forwarding {
            secondary: self.config.u8(bridge::SECONDARY),
            subordinate: self.config.u8(bridge::SUBORDINATE),
            memory: if_set(command::MEMORY, windows::memory(&self.config)),
            io: io.filter(|_| self.io),
            bus_master: command & command::BUS_MASTER != 0,
            link_up: self.occupied && self.may_have_link(),
        }
    }

    fn may_have_link(&self) -> bool {
        let control = self.config.u16(bridge::CONTROL);
        control & bridge::control::RESET == 0 && !express::is_link_disabled(&self.config)
    }

    fn follow_link(&mut self) {
        let active = self.occupied && self.may_have_link();
        express::set_link_active(&mut self.config, &self.shape.path.link, active);
    }
}

/// Makes the registers that are about I/O ports writable, or read-only zeros.
fn set_io(config: &mut ConfigSpace, io: bool) {
    let enable = if io { command::IO } else { 0 };
    config.set_writable(regs::COMMAND, &(COMMAND_BITS | enable).to_le_bytes());
    windows::set_io_writable(config, io);
}

/// A type 1 header.
fn header(shape: &PortShape) -> ConfigSpace {
    let mut config = ConfigSpace::new(CONVENTIONAL_SIZE);
    config.set_u32(regs::VENDOR, VENDOR_DEVICE);
    set_io(&mut config, false);
    config.set_u16(regs::STATUS, status::CAPABILITIES_LIST);
    config.set_u32(regs::REVISION, CLASS_REVISION);
    config.set_writable(regs::CACHE_LINE, &[0xff]);
    config.set_u8(regs::HEADER_TYPE, header_type::BRIDGE);
    config.set_writable(bridge::PRIMARY, &[0xff; 3]);
    windows::set_writable(&mut config);
    config.set_u8(regs::CAPABILITIES, express::OFFSET as u8);
    config.set_writable(regs::INTERRUPT_LINE, &[0xff]);
    config.set_u8(regs::INTERRUPT_PIN, shape.pin % 4 + 1);
    config.set_writable(bridge::CONTROL, &CONTROL_BITS.to_le_bytes());
    config
}

#[cfg(test)]
mod tests;
