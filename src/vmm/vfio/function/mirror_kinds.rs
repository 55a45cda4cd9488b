//! Which devices have mirrors ([`super::mirrors`]), and where.

use std::ops::Range;

use pci::byte_enable::{u16_at, u32_at};
use pci::capability::{self, id};
use pci::regs::{self, command};

use crate::vfio::device::{CONFIG_REGION, Device};
use crate::vfio::function::policy;
use crate::vfio::function::policy::igd;

/// What a range of a BAR leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Configuration space from `register` on. The offsets in `raw` are the device's.
    Config { register: u16, raw: Vec<Range<u16>> },
    /// Registers that are the host's, and can be read.
    ReadOnly,
    /// Registers that have host addresses: zero.
    Zero,
    /// A data register and an address register that can choose the MSI-X table.
    TableWindow,
    /// An address port and a data port of another BAR.
    Ports { target: usize },
}

/// A range of a BAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) bar: usize,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) kind: Kind,
}

const fn mirror(bar: usize, offset: u64, size: u64, kind: Kind) -> Mirror {
    Mirror {
        bar,
        offset,
        size,
        kind,
    }
}

const NVIDIA: u16 = 0x10de;
const REALTEK: u16 = 0x10ec;
/// Fast and gigabit controllers of one family.
const REALTEK_DEVICES: [u16; 3] = [0x8136, 0x8161, 0x8168];
const DISPLAY: u8 = 0x03;

/// The copy of configuration space that all of NVIDIA's have had since PCI Express came, the copy
/// of newer ones, and the one of 256 bytes that older ones have besides.
const NVIDIA_COPIES: [(u64, u64); 3] = [(0x8_8000, 0x1000), (0x9_2000, 0x1000), (0x1800, 0x100)];
/// The copy of the sound function's configuration space.
const NVIDIA_SIBLING: (u64, u64) = (0x8_a000, 0x1000);

/// Intel's copy of the host bridge's registers in BAR 0, and graphics control in it.
const HOST_BRIDGE: (u64, u64) = (0x10_8000, 0x1000);
const GRAPHICS_CONTROL: (u64, u16) = (0x10_8040, 0x50);

/// Finds the mirrors of a device. Reads a copy of configuration space, for which memory decoding is
/// turned on and off again. The device must not be in use yet.
pub(super) fn find(device: &dyn Device, snapshot: &[u8]) -> Vec<Mirror> {
    let id = |at: u16| u16_at(snapshot, at.into()).unwrap_or(!0);
    let class = snapshot.get(usize::from(regs::REVISION) + 3).copied();
    let size = |bar: u32| device.region(bar).size;
    let mut found = Vec::new();
    if id(regs::VENDOR) == NVIDIA && class == Some(DISPLAY) {
        found = nvidia(device, snapshot);
    }
    if id(regs::VENDOR) == REALTEK && REALTEK_DEVICES.contains(&id(regs::VENDOR + 2)) {
        // The ports of BAR 0 are the registers of BAR 2.
        found.extend([0, 2].map(|bar| mirror(bar, 0x70, 8, Kind::TableWindow)));
    }
    if igd::is_igd(device.name(), snapshot) {
        let (control, register) = GRAPHICS_CONTROL;
        let raw = Vec::new();
        found.push(mirror(0, control, 2, Kind::Config { register, raw }));
        let (start, end) = (HOST_BRIDGE.0, HOST_BRIDGE.0 + HOST_BRIDGE.1);
        found.push(mirror(0, start, control - start, Kind::Zero));
        found.push(mirror(0, control + 2, end - control - 2, Kind::Zero));
    }
    found.retain(|m| m.offset.saturating_add(m.size) <= size(m.bar as u32));
    found
}

fn nvidia(device: &dyn Device, snapshot: &[u8]) -> Vec<Mirror> {
    let own = u32_at(snapshot, 0).unwrap_or(!0);
    let mut found = Vec::new();
    let first = |offset| first_register(device, offset);
    for (offset, size) in NVIDIA_COPIES {
        let value = first(offset);
        // A copy that cannot be read is there, if it is the one that most have.
        let unknown = value.is_none() && (offset, size) == NVIDIA_COPIES[0];
        if value == Some(own) || unknown {
            let register = 0;
            let raw = raw(device, snapshot, size as u16);
            found.push(mirror(0, offset, size, Kind::Config { register, raw }));
        }
    }
    let (offset, size) = NVIDIA_SIBLING;
    if first(offset).is_some_and(|value| value as u16 == NVIDIA && value != own) {
        found.push(mirror(0, offset, size, Kind::ReadOnly));
    }
    found.push(mirror(5, 8, 8, Kind::Ports { target: 0 }));
    found
}

/// Reads the first register of a copy in BAR 0.
fn first_register(device: &dyn Device, offset: u64) -> Option<u32> {
    if offset.saturating_add(4) > device.region(0).size {
        return Some(!0);
    }
    let mut saved = [0; 2];
    device
        .read(CONFIG_REGION, regs::COMMAND.into(), &mut saved)
        .ok()?;
    let on = u16::from_le_bytes(saved) | command::MEMORY;
    let write = |value: [u8; 2]| device.write(CONFIG_REGION, regs::COMMAND.into(), &value);
    write(on.to_le_bytes()).ok()?;
    let mut value = [0; 4];
    let answer = device.read(0, offset, &mut value);
    write(saved).ok()?;
    answer.ok().map(|()| u32::from_le_bytes(value))
}

/// The register that acknowledges an MSI.
const MSI_ACKNOWLEDGE: u16 = 0x704;

/// The bytes of a copy that are the device's: those of no capability, such as the register at 0x704
/// that acknowledges an MSI, and the ID of MSI, which some drivers write for the same purpose.
fn raw(device: &dyn Device, snapshot: &[u8], size: u16) -> Vec<Range<u16>> {
    let hardware = device.hardware_config();
    let mut caps = capability::standard(snapshot);
    caps.extend(capability::extended(snapshot));
    caps.extend(policy::unlinked(snapshot, &hardware));
    let mut owned: Vec<(u16, u16)> = caps.iter().map(|c| (c.offset, c.len)).collect();
    owned.push((0, 0x40));
    if hardware.len() < snapshot.len() {
        // It is not known where the capabilities are that VFIO does not show.
        owned.extend([
            (0x100, MSI_ACKNOWLEDGE - 0x100),
            (MSI_ACKNOWLEDGE + 4, 0x8f8),
        ]);
    }
    for cap in caps.iter().filter(|c| !c.extended && c.id == id::MSI) {
        owned.retain(|(offset, _)| *offset != cap.offset);
        owned.push((cap.offset + 2, cap.len.saturating_sub(2)));
    }
    owned.sort_unstable();
    let mut at = 0;
    let mut raw = Vec::new();
    for (start, len) in owned {
        if at < start.min(size) {
            raw.push(at..start.min(size));
        }
        at = at.max(start.saturating_add(len));
    }
    if at < size {
        raw.push(at..size);
    }
    raw
}
