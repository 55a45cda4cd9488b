//! Where a function's BARs are in the guest: the address map follows the BARs, COMMAND, the power
//! state, and the root port above the function, if there is one.
//!
//! Mapping a BAR registers its range with the bus, for the accesses that trap, and adds its mmap
//! areas to the address space. If an address is refused, the BAR keeps its old address, in the
//! register too.

use std::sync::Arc;

use pci::addr::Range;
use pci::bar::{BAR_COUNT, BarError, Bars, REGISTER_COUNT};
use pci::byte_enable;
use pci::decoder::{BarEffect, Decoder};
use pci::regs::{self, command};
use pci::rom::ROM;
use pci::upstream::Upstream;
use tracing::debug;

use crate::bus::Bus;
use crate::coalesced::zones::CoalescedZones;
use crate::layout::{self, Layout};
use crate::log::limit::{RateLimit, warn_limited};
use crate::memory::{AddressSpace, MemoryError, Region};
use crate::vfio::device::Device;
use crate::vfio::function::rom::Rom;
use crate::vfio::function::trap::BarTrap;

/// Why a BAR cannot be where the guest wants it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("outside of the bus's windows")]
    Outside,
    #[error("{0}")]
    Taken(#[from] vm_device::bus::Error),
    #[error("{0}")]
    Memory(#[from] MemoryError),
}

/// The parts of the guest's address map that BARs change.
#[derive(Clone)]
pub(super) struct AddressMap {
    /// Takes the ranges of BARs, whose accesses trap.
    pub(super) bus: Arc<Bus>,
    /// Takes the areas of BARs that the guest touches directly.
    pub(super) space: Arc<AddressSpace>,
    /// Zones of coalesced MMIO.
    pub(super) zones: Arc<CoalescedZones>,
    /// The windows for BARs.
    pub(super) layout: Layout,
    /// What the root port above the function lets through; `None` on the root bus.
    pub(super) upstream: Option<Arc<Upstream>>,
}

/// The BARs of a function, the state that lets them decode, and their addresses in the guest.
pub(super) struct BarDecode {
    /// The device's name, for messages.
    name: String,
    map: AddressMap,
    traps: [Arc<BarTrap>; REGISTER_COUNT],
    rom: Arc<Rom>,
    /// The areas of each BAR that the guest touches directly, relative to the BAR.
    areas: [Vec<Region>; BAR_COUNT],
    bars: Bars,
    /// The BARs as firmware assigned them.
    reset_bars: Bars,
    decoder: Decoder,
    /// COMMAND, whose enable bits let BARs decode.
    command: u16,
    /// Whether the device is in D0. A device decodes in no other state.
    in_d0: bool,
    limit: RateLimit,
}

impl BarDecode {
    /// No BAR decodes yet; the device is in D0. The traps of `bars` go to `traps`.
    pub(super) fn new(
        name: &str,
        bars: Bars,
        areas: [Vec<Region>; BAR_COUNT],
        traps: [Arc<BarTrap>; REGISTER_COUNT],
        rom: Arc<Rom>,
        map: AddressMap,
    ) -> Self {
        Self {
            name: name.into(),
            map,
            traps,
            rom,
            areas,
            reset_bars: bars.clone(),
            bars,
            decoder: Decoder::new(),
            command: 0,
            in_d0: true,
            limit: RateLimit::default(),
        }
    }

    /// The BARs and the ROM as the guest sees them now.
    pub(super) fn bars(&self) -> &Bars {
        &self.bars
    }

    /// The areas of a BAR that the guest touches directly, relative to the BAR.
    pub(super) fn areas(&self, bar: usize) -> &[Region] {
        self.areas.get(bar).map_or(&[], Vec::as_slice)
    }

    /// The address at which a BAR is in the guest's address map.
    pub(super) fn mapped(&self, bar: usize) -> Option<u64> {
        self.decoder.mapped(bar)
    }

    /// Sets the BARs that firmware has assigned, now and for every reset. The caller has turned
    /// decoding off before.
    pub(super) fn set_reset_bars(&mut self, bars: Bars) {
        self.reset_bars = bars;
        self.reset();
    }

    /// Sets the BARs that firmware will assign at the next reset. Until then they have the guest's
    /// addresses.
    pub(super) fn set_bars_after_reset(&mut self, bars: Bars) {
        self.reset_bars = bars;
    }

    /// Sets the BARs back to the addresses that firmware assigned. The caller has turned decoding
    /// off before, so the address map does not change.
    pub(super) fn reset(&mut self) {
        self.bars = self.reset_bars.clone();
    }

    /// Sets the BARs to no address, as a reset of the device's bus does. The caller has turned
    /// decoding off before.
    pub(super) fn clear(&mut self) {
        self.bars.clear();
    }

    /// Unmaps the device's pages from this process, for good. The caller has turned decoding off
    /// before.
    pub(super) fn release(&mut self) {
        self.areas = Default::default();
    }

    /// Fills in the bytes of the BARs' registers, in a read of configuration space.
    pub(super) fn read(&self, offset: u16, data: &mut [u8]) {
        self.bars.read(offset, data);
    }

    /// A guest's write of configuration space; the address map follows the BARs in it.
    pub(super) fn write(&mut self, offset: u16, data: &[u8]) {
        if self.bars.write(offset, data) {
            self.follow();
        }
    }

    /// Takes over a new value of COMMAND; the address map follows its enable bits.
    pub(super) fn set_command(&mut self, command: u16) {
        self.command = command;
        self.follow();
    }

    /// Takes over whether the device is in D0; the address map follows.
    pub(super) fn set_in_d0(&mut self, in_d0: bool) {
        self.in_d0 = in_d0;
        self.follow();
    }

    /// Whether the device is in D0, as far as the VMM knows.
    pub(super) fn is_in_d0(&self) -> bool {
        self.in_d0
    }

    /// Whether any mmap area is in the address space.
    pub(super) fn any_area_is_mapped(&self) -> bool {
        (0..BAR_COUNT).any(|bar| !self.areas(bar).is_empty() && self.decoder.mapped(bar).is_some())
    }

    /// Whether a mapped area contains a guest-physical address.
    pub(super) fn area_is_at(&self, address: u64) -> bool {
        let offset_in = |bar| address.checked_sub(self.decoder.mapped(bar)?);
        (0..BAR_COUNT).any(|bar| offset_in(bar).is_some_and(|at| self.area_has(bar, at)))
    }

    /// Whether an offset in a BAR lies in one of its areas, and the areas are in the address space.
    pub(super) fn maps(&self, bar: usize, offset: u64) -> bool {
        self.decoder.mapped(bar).is_some() && self.area_has(bar, offset)
    }

    fn area_has(&self, bar: usize, offset: u64) -> bool {
        let has = |area: &Region| offset >= area.start && offset - area.start < area.size;
        self.areas(bar).iter().any(has)
    }

    /// Updates the address map by the BARs, COMMAND, the power state, and what the port above the
    /// function lets through.
    pub(super) fn follow(&mut self) {
        let enabled = |bit| self.in_d0 && self.command & bit != 0;
        let (memory, io) = (enabled(command::MEMORY), enabled(command::IO));
        let effects = match &self.map.upstream {
            None => self.decoder.update(&self.bars, memory, io),
            Some(upstream) => {
                let port = upstream.now();
                self.decoder
                    .update_where(&self.bars, memory, io, |bar, at| port.allows(bar, at))
            }
        };
        // BARs that leave come first, since others may move to their addresses.
        for effect in &effects {
            if let BarEffect::Unmap { bar } | BarEffect::Move { bar, .. } = effect {
                self.unmap(*bar);
            }
        }
        for effect in &effects {
            let (bar, to, from) = match *effect {
                BarEffect::Unmap { .. } => {
                    self.decoder.confirm(effect);
                    continue;
                }
                BarEffect::Map { bar, address } => (bar, address, None),
                BarEffect::Move { bar, from, to } => (bar, to, Some(from)),
            };
            match self.map(bar, to) {
                Ok(()) => {
                    debug!("{}: BAR {bar} is at {to:#x}", self.name);
                    self.decoder.confirm(effect);
                }
                // No BAR decodes outside of the windows, as behind a bridge that does not forward
                // the address. The register keeps the address, since a guest writes the halves of a
                // 64-bit address one by one.
                Err(Refusal::Outside) => {
                    debug!(
                        "{}: BAR {bar} at {to:#x} is outside of the windows",
                        self.name
                    );
                    self.decoder.confirm(&BarEffect::Unmap { bar });
                }
                Err(why) => {
                    let name = &self.name;
                    warn_limited!(self.limit, "{name}: BAR {bar} cannot be at {to:#x}: {why}");
                    // Back to the old address, in the register too.
                    self.decoder.refuse(&mut self.bars, bar);
                    if from.is_some_and(|old| self.map(bar, old).is_err()) {
                        self.decoder.confirm(&BarEffect::Unmap { bar });
                    }
                }
            }
        }
    }

    /// Adds a BAR to the guest's address map. If a part is refused, the other parts are removed
    /// again.
    fn map(&self, bar: usize, address: u64) -> Result<(), Refusal> {
        let (Some(shape), Some(trap)) = (self.bars.get(bar), self.traps.get(bar)) else {
            return Err(Refusal::Outside);
        };
        let trap = Arc::clone(trap);
        if shape.kind.is_io() {
            let (port, size) = (u16::try_from(address), u16::try_from(shape.size));
            let (Ok(port), Ok(size)) = (port, size) else {
                return Err(Refusal::Outside);
            };
            if port < layout::PCI_IO_START {
                return Err(Refusal::Outside);
            }
            return Ok(self.map.bus.insert_pio(port, size, trap)?);
        }
        // Firmware assigns each BAR a range of its own in the windows. At that address there can be
        // no zone but the function's own. So only an address that the guest has chosen is checked.
        if self.reset_bars.address(bar) != Some(address) {
            if !self.map.layout.allows_bar(address, shape.size) {
                return Err(Refusal::Outside);
            }
            self.map.zones.remove_overlapping(Range {
                start: address,
                size: shape.size,
            });
        }
        if bar == ROM {
            self.rom.count_enabling();
        }
        self.map.bus.insert_mmio(address, shape.size, trap)?;
        self.map_areas(bar, address)
            .inspect_err(|_| self.map.bus.remove_mmio(address))?;
        Ok(())
    }

    /// Adds the areas of a BAR to the address space: all of them, or none.
    fn map_areas(&self, bar: usize, address: u64) -> Result<(), MemoryError> {
        let areas = self.areas(bar);
        for (done, area) in areas.iter().enumerate() {
            let start = address + area.start;
            let region = Region {
                start,
                ..area.clone()
            };
            if let Err(e) = self.map.space.add(region) {
                for area in areas.iter().take(done) {
                    self.map.space.remove(address + area.start);
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// Removes a BAR from the guest's address map.
    fn unmap(&self, bar: usize) {
        let (Some(address), Some(shape)) = (self.decoder.mapped(bar), self.bars.get(bar)) else {
            return;
        };
        debug!("{}: BAR {bar} leaves {address:#x}", self.name);
        if shape.kind.is_io() {
            if let Ok(port) = u16::try_from(address) {
                self.map.bus.remove_pio(port);
            }
            return;
        }
        for area in self.areas(bar) {
            self.map.space.remove(address + area.start);
        }
        self.map.bus.remove_mmio(address);
    }
}

/// The BARs and the ROM register of a device, without addresses.
pub(super) fn read_bars(snapshot: &[u8], device: &dyn Device, rom: &Rom) -> Result<Bars, BarError> {
    let raw = std::array::from_fn(|i| {
        byte_enable::u32_at(snapshot, usize::from(regs::BAR) + i * 4).unwrap_or(0)
    });
    let sizes = std::array::from_fn(|i| device.region(i as u32).size);
    rom.add_register(Bars::decode(raw, sizes)?)
}

#[cfg(test)]
mod tests;
