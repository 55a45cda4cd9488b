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
//! | `slot` | its registers of a slot that devices can be plugged into |
//! | `effect` | what a write asks of the VMM |
//!
//! The port has the capabilities of PCI Express and of MSI, and no extended configuration space: a
//! guest reads each further capability in some 28 accesses of a boot.

mod effect;
mod express;
mod shape;
mod slot;
mod windows;

pub use effect::PortEffect;
pub use shape::PortShape;

use crate::byte_enable::{extract, overlay, part_of};
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
        if shape.hot_plug {
            slot::add(&mut config, shape.number);
        }
        windows::set(&mut config, &PortSetup::default());
        let mut port = Self {
            shape,
            io: false,
            power_on: config.clone(),
            config,
            msi: Msi::new(MSI),
            occupied: false,
        };
        port.reset();
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
        self.show_link();
    }

    /// Whether an access touches Link Status, which follows the link of the device behind the port.
    pub fn shows_link(offset: u16, len: usize) -> bool {
        express::shows_link(offset, len)
    }

    /// Sets what the link has now. What it has at most stays.
    pub fn set_link(&mut self, link: Link) {
        self.shape.path.link = self.shape.path.link.at(&link);
        self.show_link();
    }

    /// Sets whether there is a device behind the port at power-on, and resets the port.
    pub fn set_occupied(&mut self, occupied: bool) {
        self.occupied = occupied;
        self.reset();
    }

    /// Sets all registers to their values at power-on. A device that is there has power.
    pub fn reset(&mut self) {
        self.config = self.power_on.clone();
        self.msi.reset();
        if self.shape.hot_plug {
            slot::power_on(&mut self.config, self.occupied);
        }
        self.show_link();
    }

    /// A device has come into the slot. The guest hears of it by presence and by the link: with an
    /// attention button Linux does not listen to presence (drivers/pci/hotplug/pciehp_hpc.c,
    /// `pcie_enable_notification`), and the link is not active before the slot has power.
    pub fn insert(&mut self) -> Vec<PortEffect> {
        self.change(|port| {
            port.occupied = true;
            port.raise(slot::PRESENCE_CHANGED | slot::LINK_CHANGED);
        })
    }

    /// The device has gone from the slot.
    pub fn remove(&mut self) -> Vec<PortEffect> {
        self.change(|port| {
            port.occupied = false;
            port.raise(slot::PRESENCE_CHANGED | slot::LINK_CHANGED);
        })
    }

    /// Somebody presses the attention button: the guest gives the device up, or takes it, after
    /// five seconds in which a second press cancels.
    pub fn press_button(&mut self) -> Vec<PortEffect> {
        self.change(|port| port.raise(slot::BUTTON))
    }

    /// Whether the guest listens to the attention button.
    pub fn hears_button(&self) -> bool {
        self.shape.hot_plug && slot::listens(&self.config, slot::BUTTON)
    }

    /// Whether the guest hears of a device that comes or goes.
    pub fn hears_changes(&self) -> bool {
        let events = slot::PRESENCE_CHANGED | slot::LINK_CHANGED;
        self.shape.hot_plug && slot::listens(&self.config, events)
    }

    /// Whether the guest has taken a press of the button, and a second press cancels it.
    pub fn indicator_blinks(&self) -> bool {
        self.shape.hot_plug && slot::indicator_blinks(&self.config)
    }

    /// Whether the guest has finished with the device that was in the slot before: power and its
    /// indicator are off.
    pub fn is_idle(&self) -> bool {
        self.shape.hot_plug && !self.has_power() && slot::indicator_is_off(&self.config)
    }

    /// Whether there is a device in the slot, with power or without.
    pub fn is_occupied(&self) -> bool {
        self.occupied
    }

    /// Whether the slot has power. A port without a slot always has.
    pub fn has_power(&self) -> bool {
        !self.shape.hot_plug || slot::has_power(&self.config)
    }

    /// Whether the port asserts its interrupt pin.
    pub fn pin(&self) -> bool {
        let disabled = self.config.u16(regs::COMMAND) & command::INTX_DISABLE != 0;
        self.interrupts() && !disabled && !self.msi.is_enabled()
    }

    /// Reads any registers.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
        let interrupt = if self.interrupts() {
            status::INTERRUPT
        } else {
            0
        };
        let status = self.config.u16(regs::STATUS) | interrupt;
        extract(
            status.to_le_bytes(),
            regs::STATUS.into(),
            offset.into(),
            data,
        );
        overlay(MSI.offset, MSI.size(), offset, data, |first, part| {
            self.msi.capability_read(first, part, &|_| false);
        });
    }

    /// A guest's write of any registers. Returns what follows from the write.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Vec<PortEffect> {
        self.change(|port| {
            port.config.write(offset, data);
            if let Some((first, part)) = part_of(MSI.offset, MSI.size(), offset, data) {
                port.msi.capability_write(first, part);
            }
        })
    }

    /// Changes registers, and returns what follows.
    fn change(&mut self, change: impl FnOnce(&mut Self)) -> Vec<PortEffect> {
        let (before, sent, pin) = (self.forwarding(), self.sends(), self.pin());
        let active = express::is_link_active(&self.config);
        change(self);
        self.show_link();
        if express::is_link_active(&self.config) != active {
            self.raise(slot::LINK_CHANGED);
        }
        let now = self.forwarding();
        let mut effects = Vec::new();
        if now != before {
            effects.push(PortEffect::Forward(now));
        }
        if before.link_up && !now.link_up && self.occupied {
            effects.push(PortEffect::Reset);
        }
        if self.sends() && !sent {
            effects.extend(self.msi.messages().into_iter().map(PortEffect::Message));
        }
        if self.pin() != pin {
            effects.push(PortEffect::Pin(!pin));
        }
        effects
    }

    /// Lets events of the slot be pending.
    fn raise(&mut self, events: u16) {
        if self.shape.hot_plug {
            slot::set_presence(&mut self.config, self.occupied);
            slot::raise(&mut self.config, events);
        }
    }

    /// Whether an event of the slot asks for an interrupt.
    fn interrupts(&self) -> bool {
        self.shape.hot_plug && slot::interrupts(&self.config)
    }

    /// Whether the port's message is due. One is sent when this becomes true (6.7.3.4). A message
    /// is a memory write, which needs Bus Master Enable.
    fn sends(&self) -> bool {
        let master = self.config.u16(regs::COMMAND) & command::BUS_MASTER != 0;
        self.interrupts() && self.msi.is_enabled() && master
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
        control & bridge::control::RESET == 0
            && !express::is_link_disabled(&self.config)
            && self.has_power()
    }

    /// Shows the link in Link Status.
    fn show_link(&mut self) {
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
