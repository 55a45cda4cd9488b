//! Registers inside a BAR that lead to what the VMM emulates: a second copy of configuration space,
//! or a window to the MSI-X table. A guest that uses them gets what it gets by the ordinary way.
//!
//! The pages of such registers trap ([`Mirrors::ranges`]). A device is known by its IDs and class,
//! and, where a copy of configuration space may be absent, by the copy's first register, which has
//! the device's IDs. docs/ownership.md tells which devices there are, what each register would
//! let a guest do, and which copies need no trap.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pci::byte_enable::{extract, merge, touches};

use crate::vfio::device::Device;
use crate::vfio::function::mirror_kinds;
use crate::vfio::function::mirror_kinds::{Kind, Mirror};

/// A guest's access.
pub(super) enum Access<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl<'a> Access<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Read(data) => data.len(),
            Self::Write(data) => data.len(),
        }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len());
        match self {
            Self::Read(data) => {
                let (first, rest) = data.split_at_mut(at);
                (Self::Read(first), Self::Read(rest))
            }
            Self::Write(data) => {
                let (first, rest) = data.split_at(at);
                (Self::Write(first), Self::Write(rest))
            }
        }
    }
}

/// What is behind a mirror.
pub(super) trait Behind {
    /// A guest's access to configuration space.
    fn config(&self, register: u16, access: Access<'_>);
    /// A guest's access to the MSI-X table.
    fn table(&self, offset: u64, access: Access<'_>);
    /// Whether an access to a BAR touches the MSI-X table or its pending bits.
    fn is_emulated(&self, bar: usize, offset: u64, len: usize) -> bool;
    /// An access to a BAR that has no mirror there.
    fn register(&self, bar: usize, offset: u64, access: Access<'_>);
}

/// The last writes to the window of a Realtek controller.
#[derive(Default)]
struct Window {
    address: u32,
    data: u32,
}

/// The mirrors of a function.
#[derive(Default)]
pub struct Mirrors {
    mirrors: Vec<Mirror>,
    window: Mutex<Window>,
}

/// Bits 30:16 of the address register choose what the window shows; 1 is the MSI-X table.
const TABLE: u32 = 1;
/// A write of the address register with this bit carries out a write. The bit changes when the
/// access is complete.
const FLAG: u32 = 1 << 31;

impl Mirrors {
    /// Finds the mirrors of a device by a snapshot of its configuration space, before the device is
    /// in use.
    pub fn find(device: &dyn Device, snapshot: &[u8]) -> Self {
        Self {
            mirrors: mirror_kinds::find(device, snapshot),
            window: Mutex::default(),
        }
    }

    /// The ranges of a BAR that must trap, as offset and size.
    pub fn ranges(&self, bar: usize) -> Vec<(u64, u64)> {
        let here = self.mirrors.iter().filter(|mirror| mirror.bar == bar);
        here.map(|mirror| (mirror.offset, mirror.size)).collect()
    }

    /// Whether an access touches a mirror.
    pub(super) fn touch(&self, bar: usize, offset: u64, len: usize) -> bool {
        let touched = |m: &Mirror| m.bar == bar && touches(offset, len, m.offset, m.size);
        self.mirrors.iter().any(touched)
    }

    /// Carries out an access.
    pub(super) fn access(&self, to: &dyn Behind, bar: usize, offset: u64, access: Access<'_>) {
        let (mut at, mut rest) = (offset, access);
        while rest.len() > 0 {
            let mirror = self.at(bar, at);
            let same = |n: &usize| {
                let next = self.at(bar, at.saturating_add(*n as u64));
                next.map(|m| m.offset) == mirror.map(|m| m.offset)
            };
            let run = 1 + (1..rest.len()).take_while(same).count();
            let (part, tail) = rest.split_at(run);
            match mirror {
                None => to.register(bar, at, part),
                Some(mirror) => self.access_one(to, mirror, at - mirror.offset, part),
            }
            at = at.saturating_add(run as u64);
            rest = tail;
        }
    }

    fn at(&self, bar: usize, offset: u64) -> Option<&Mirror> {
        let here = |m: &&Mirror| m.bar == bar && touches(offset, 1, m.offset, m.size);
        self.mirrors.iter().find(here)
    }

    fn access_one(&self, to: &dyn Behind, mirror: &Mirror, at: u64, access: Access<'_>) {
        match &mirror.kind {
            Kind::Config { register, raw } => {
                let (mut at, mut rest) = (at as u16, access);
                while rest.len() > 0 {
                    let is_raw = |at: u16| raw.iter().any(|range| range.contains(&at));
                    let same = |n: &usize| is_raw(at.saturating_add(*n as u16)) == is_raw(at);
                    let run = 1 + (1..rest.len()).take_while(same).count();
                    let (part, tail) = rest.split_at(run);
                    match is_raw(at) {
                        true => to.register(mirror.bar, mirror.offset + u64::from(at), part),
                        false => to.config(register.saturating_add(at), part),
                    }
                    at = at.saturating_add(run as u16);
                    rest = tail;
                }
            }
            Kind::ReadOnly => {
                if let Access::Read(_) = access {
                    to.register(mirror.bar, mirror.offset + at, access);
                }
            }
            Kind::Zero => {
                if let Access::Read(data) = access {
                    data.fill(0);
                }
            }
            Kind::TableWindow => self.table_window(to, mirror, at, access),
            Kind::Ports { target } => self.ports(to, mirror, *target, at, access),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Data at offset 0 and an address at offset 4: the guest's table instead of the device's.
    fn table_window(&self, to: &dyn Behind, mirror: &Mirror, at: u64, access: Access<'_>) {
        let mut window = self.lock();
        let chooses_table = |address: u32| address >> 16 & 0x7fff == TABLE;
        let entry = |address: u32| u64::from(address & 0xffc);
        let on = chooses_table(window.address);
        match access {
            Access::Write(data) => {
                window.data = merge(window.data, 0, !0, at, data);
                window.address = merge(window.address, 4, !0, at, data);
                if !chooses_table(window.address) {
                    to.register(mirror.bar, mirror.offset + at, Access::Write(data));
                } else if touches(at, data.len(), 4, 4) && window.address & FLAG != 0 {
                    let value = window.data.to_le_bytes();
                    to.table(entry(window.address), Access::Write(&value));
                }
            }
            Access::Read(data) if on => {
                let mut value = [0xff; 4];
                to.table(entry(window.address), Access::Read(&mut value));
                extract(value, 0, at, data);
                extract((window.address ^ FLAG).to_le_bytes(), 4, at, data);
            }
            Access::Read(_) => to.register(mirror.bar, mirror.offset + at, access),
        }
    }

    /// An address port at offset 0 and a data port at offset 4, which lead to BAR `target`. No
    /// other vCPU changes the address between the look at it and the access.
    fn ports(&self, to: &dyn Behind, mirror: &Mirror, target: usize, at: u64, access: Access<'_>) {
        let _window = self.lock();
        let direct = |access| to.register(mirror.bar, mirror.offset + at, access);
        let Some(byte) = at.checked_sub(4) else {
            return match touches(at, access.len(), 4, 4) {
                // No driver makes an access to both.
                true => {}
                false => direct(access),
            };
        };
        let mut address = [0; 4];
        to.register(mirror.bar, mirror.offset, Access::Read(&mut address));
        let there = u64::from(u32::from_le_bytes(address)).saturating_add(byte);
        let len = access.len();
        match self.touch(target, there, len) || to.is_emulated(target, there, len) {
            true => self.access(to, target, there, access),
            false => direct(access),
        }
    }
}

#[cfg(test)]
mod tests;
