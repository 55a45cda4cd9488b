//! MSI-X: the capability, the vector table and the pending bits
//! (PCI Express 6.0, 7.7.2; PCI 3.0, 6.8.2).
//!
//! A vector is *live* when an interrupt sends its message at once: MSI-X is enabled, and neither
//! the function nor the vector is masked.
//!
//! The registers are the whole state. After a write, the caller compares the registers
//! ([`Msix::is_enabled`], [`Msix::live`]) with the vectors that it has set up in the host, and
//! changes those. A write of the table returns the touched entries, so that the caller need not
//! compare all 2048. If the host cannot follow, the caller corrects the registers, so that a guest
//! sees the refusal ([`Msix::refuse_enable`], [`Msix::refuse_vector`]).

use std::ops::Range;

use crate::byte_enable::{extract, merge, u16_at, u32_at};
use crate::capability::id;
use crate::{Message, capability};

/// Size of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Size of the capability.
pub const CAPABILITY_SIZE: u16 = 12;
/// The first vector that a driver may leave unused: a driver always uses vector 0.
pub const FIRST_UNUSED_VECTOR: u16 = 1;
/// The most vectors that a function can have.
pub const MAX_VECTORS: u16 = 2048;

/// Message Control is the upper half of the capability's first dword.
const ENABLE: u32 = 1 << 31;
const FUNCTION_MASK: u32 = 1 << 30;
const TABLE_SIZE_SHIFT: u32 = 16;
/// BIR, the number of the BAR; the rest of the dword is the offset in that BAR.
const BIR: u32 = 7;
const VECTOR_MASK: u32 = 1;
/// Messages are dword-aligned.
const ADDRESS_LOW: u32 = !3;

/// The offset of the capability, and the position of its table and pending bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    /// Offset of the capability in configuration space.
    pub offset: u16,
    /// Entries in the table, 1 to 2048.
    pub vectors: u16,
    /// The BAR with the table.
    pub table_bar: u8,
    /// Offset of the table in its BAR, a multiple of 8.
    pub table_offset: u32,
    /// The BAR with the pending bits.
    pub pba_bar: u8,
    /// Offset of the pending bits in their BAR, a multiple of 8.
    pub pba_offset: u32,
}

impl MsixCapability {
    /// Finds and reads the capability. `None` if the function has no MSI-X, or if the capability
    /// points at a BAR that does not exist. The caller checks whether table and pending bits fit
    /// into their BARs.
    pub fn parse(config: &[u8]) -> Option<Self> {
        let offset = capability::find(config, id::MSIX)?.offset;
        let at = usize::from(offset);
        let control = u16_at(config, at + 2)?;
        let (table_bar, table_offset) = parse_bir(u32_at(config, at + 4)?)?;
        let (pba_bar, pba_offset) = parse_bir(u32_at(config, at + 8)?)?;
        Some(Self {
            offset,
            vectors: (control & (MAX_VECTORS - 1)) + 1,
            table_bar,
            table_offset,
            pba_bar,
            pba_offset,
        })
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        u64::from(self.vectors) * ENTRY_SIZE
    }

    /// Bytes of the pending bits: whole quadwords.
    pub fn pba_size(&self) -> u64 {
        u64::from(self.vectors).div_ceil(64) * 8
    }
}

/// BAR and offset in a Table or PBA register; `None` for a BAR that no function has.
fn parse_bir(register: u32) -> Option<(u8, u32)> {
    let bar = u8::try_from(register & BIR).ok()?;
    (bar <= 5).then_some((bar, register & !BIR))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address_low: u32,
    address_high: u32,
    data: u32,
    control: u32,
}

impl Entry {
    const POWER_ON: Self = Self {
        address_low: 0,
        address_high: 0,
        data: 0,
        control: VECTOR_MASK,
    };

    fn is_masked(&self) -> bool {
        self.control & VECTOR_MASK != 0
    }

    fn message(&self) -> Message {
        Message {
            address: u64::from(self.address_high) << 32 | u64::from(self.address_low),
            data: self.data,
        }
    }
}

/// MSI-X of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msix {
    capability: MsixCapability,
    enabled: bool,
    function_masked: bool,
    table: Vec<Entry>,
}

impl Msix {
    /// After power-on: disabled, every vector masked.
    pub fn new(capability: MsixCapability) -> Self {
        let capability = MsixCapability {
            vectors: capability.vectors.clamp(1, MAX_VECTORS),
            ..capability
        };
        Self {
            capability,
            enabled: false,
            function_masked: false,
            table: vec![Entry::POWER_ON; capability.vectors.into()],
        }
    }

    /// The capability as parsed.
    pub fn capability(&self) -> &MsixCapability {
        &self.capability
    }

    /// Whether the function uses MSI-X.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The message that a vector sends; `None` while the vector is not live, or if it does not
    /// exist.
    pub fn live(&self, vector: u16) -> Option<Message> {
        let entry = self.table.get(usize::from(vector))?;
        (self.is_open() && !entry.is_masked()).then(|| entry.message())
    }

    /// Whether MSI-X is enabled, the function is not masked, and the guest has changed the entry of
    /// vector `first` or of a later vector: such a vector is live, or may soon be.
    pub fn uses_vectors_from(&self, first: u16) -> bool {
        let mut entries = self.table.iter().skip(first.into());
        self.is_open() && entries.any(|entry| *entry != Entry::POWER_ON)
    }

    /// Reads bytes of the capability. Bytes of `data` for ID and link, which are in the
    /// configuration space, stay unchanged, and so do bytes after the capability.
    pub fn capability_read(&self, offset: u16, data: &mut [u8]) {
        let offset = u64::from(offset);
        let [_, _, low, high] = self.control().to_le_bytes();
        extract([low, high], 2, offset, data);
        let c = &self.capability;
        let table = c.table_offset & !BIR | u32::from(c.table_bar) & BIR;
        let pba = c.pba_offset & !BIR | u32::from(c.pba_bar) & BIR;
        extract(table.to_le_bytes(), 4, offset, data);
        extract(pba.to_le_bytes(), 8, offset, data);
    }

    /// A guest's write of bytes of the capability. Only MSI-X Enable and Function Mask are
    /// writable. Any vector may become live, or stop being live.
    pub fn control_write(&mut self, offset: u16, data: &[u8]) {
        let writable = ENABLE | FUNCTION_MASK;
        let control = merge(self.control(), 0, writable, offset.into(), data);
        self.enabled = control & ENABLE != 0;
        self.function_masked = control & FUNCTION_MASK != 0;
    }

    /// Reads bytes of the table. Bytes after the table read as all ones.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for vector in self.touched(offset, data.len()) {
            let Some(entry) = self.table.get(usize::from(vector)) else {
                return;
            };
            let at = u64::from(vector) * ENTRY_SIZE;
            extract(entry.address_low.to_le_bytes(), at, offset, data);
            extract(entry.address_high.to_le_bytes(), at + 4, offset, data);
            extract(entry.data.to_le_bytes(), at + 8, offset, data);
            extract(entry.control.to_le_bytes(), at + 12, offset, data);
        }
    }

    /// A guest's write of bytes of the table. Bytes after the table are dropped. The specification
    /// allows aligned dwords and quadwords; any other access changes the bytes that it covers.
    /// Returns the vectors whose entries the write covers, even in part.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) -> Range<u16> {
        let touched = self.touched(offset, data.len());
        for vector in touched.clone() {
            if let Some(entry) = self.table.get_mut(usize::from(vector)) {
                let at = u64::from(vector) * ENTRY_SIZE;
                entry.address_low = merge(entry.address_low, at, ADDRESS_LOW, offset, data);
                entry.address_high = merge(entry.address_high, at + 4, !0, offset, data);
                entry.data = merge(entry.data, at + 8, !0, offset, data);
                entry.control = merge(entry.control, at + 12, VECTOR_MASK, offset, data);
            }
        }
        touched
    }

    /// Reads bytes of the pending bits; `pending` returns whether an interrupt of a vector is
    /// pending. Bits of vectors that do not exist are zero. Bytes after the array read as all ones.
    pub fn pba_read(&self, offset: u64, data: &mut [u8], pending: &dyn Fn(u16) -> bool) {
        data.fill(0xff);
        for (byte, at) in data.iter_mut().zip(offset..self.capability.pba_size()) {
            let first = at.saturating_mul(8);
            *byte = (0..8u64)
                .filter_map(|bit| Some((bit, u16::try_from(first.checked_add(bit)?).ok()?)))
                .filter(|(_, vector)| *vector < self.capability.vectors && pending(*vector))
                .fold(0, |bits, (bit, _)| bits | 1 << bit);
        }
    }

    /// Masks a vector, because the host could not set it up. The guest may try again.
    pub fn refuse_vector(&mut self, vector: u16) {
        if let Some(entry) = self.table.get_mut(usize::from(vector)) {
            entry.control |= VECTOR_MASK;
        }
    }

    /// Clears MSI-X Enable, because the host could not turn MSI-X on. The guest may try again.
    pub fn refuse_enable(&mut self) {
        self.enabled = false;
    }

    /// Sets all registers to their values at power-on.
    pub fn reset(&mut self) {
        *self = Self::new(self.capability);
    }

    /// Whether MSI-X is enabled and the function is not masked.
    fn is_open(&self) -> bool {
        self.enabled && !self.function_masked
    }

    /// The vectors of the entries that an access to the table covers, even in part.
    fn touched(&self, offset: u64, len: usize) -> Range<u16> {
        let count = self.capability.vectors;
        let vector = |entry: u64| u16::try_from(entry).map_or(count, |vector| vector.min(count));
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        vector(offset / ENTRY_SIZE)..vector(end.div_ceil(ENTRY_SIZE))
    }

    /// The first dword of the capability without ID and link.
    fn control(&self) -> u32 {
        let size = u32::from(self.capability.vectors.saturating_sub(1)) << TABLE_SIZE_SHIFT;
        let enable = if self.enabled { ENABLE } else { 0 };
        let mask = if self.function_masked {
            FUNCTION_MASK
        } else {
            0
        };
        size | enable | mask
    }
}

#[cfg(test)]
mod tests;
