//! MSI: one capability with the message for 1 to 32 vectors
//! (PCI Express 6.0, 7.7.1; PCI 3.0, 6.8.1).
//!
//! The capability has four layouts: 32 or 64-bit address, with or without a mask bit for each
//! vector. Multiple Message Capable is the number of vectors of the device, Multiple Message Enable
//! the number that the guest uses. Vector i sends the data with its low bits replaced by i.
//!
//! The registers are the whole state. After a write, the caller compares the registers
//! ([`Msi::is_enabled`], [`Msi::messages`], [`Msi::masked`]) with the vectors that it has set up in
//! the host, and changes those. If the host cannot follow, the caller corrects the registers, so
//! that a guest sees the limit:
//!
//! - [`Msi::limit_vectors`]: the host has fewer vectors than the device. Both fields show the lower
//!   number from then on, because a driver takes the number of vectors from Multiple Message
//!   Capable, and may read Multiple Message Enable to learn how many it got.
//! - [`Msi::refuse_enable`]: the host has no vector.

use crate::byte_enable::{extract, merge, u16_at};
use crate::capability::id;
use crate::{Message, capability};

/// The most vectors that a function can have.
pub const MAX_VECTORS: u8 = 32;

/// Message Control is the upper half of the capability's first dword.
const ENABLE: u32 = 1 << 16;
const CAPABLE_SHIFT: u32 = 17;
const MULTIPLE_ENABLE_SHIFT: u32 = 20;
const MULTIPLE_ENABLE: u32 = 7 << MULTIPLE_ENABLE_SHIFT;
const ADDRESS_64: u32 = 1 << 23;
const PER_VECTOR_MASKING: u32 = 1 << 24;
/// Messages are dword-aligned.
const ADDRESS_LOW: u32 = !3;
const DATA: u32 = 0xffff;

/// The offset and layout of the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiCapability {
    /// Offset of the capability in configuration space.
    pub offset: u16,
    /// Whether the capability has the upper half of the address.
    pub address_64: bool,
    /// Whether the capability has mask and pending bits.
    pub per_vector_masking: bool,
    /// How many vectors the function can have: 1, 2, 4, 8, 16 or 32. A caller may lower the number
    /// before [`Msi::new`].
    pub max_vectors: u8,
}

impl MsiCapability {
    /// Finds and reads the capability.
    pub fn parse(config: &[u8]) -> Option<Self> {
        let offset = capability::find(config, id::MSI)?.offset;
        let control = u32::from(u16_at(config, usize::from(offset) + 2)?) << 16;
        // The values 6 and 7 are reserved.
        let capable = (control >> CAPABLE_SHIFT & 7).min(5);
        Some(Self {
            offset,
            address_64: control & ADDRESS_64 != 0,
            per_vector_masking: control & PER_VECTOR_MASKING != 0,
            max_vectors: 1 << capable,
        })
    }

    /// Bytes of the capability.
    pub fn size(&self) -> u16 {
        match (self.address_64, self.per_vector_masking) {
            (false, false) => 10,
            (true, false) => 14,
            (false, true) => 20,
            (true, true) => 24,
        }
    }

    fn data_offset(&self) -> u64 {
        if self.address_64 { 12 } else { 8 }
    }

    fn mask_offset(&self) -> Option<u64> {
        self.per_vector_masking.then_some(self.data_offset() + 4)
    }
}

/// MSI of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msi {
    capability: MsiCapability,
    /// Logarithm of the number of vectors that the guest may use: all of the device, or fewer after
    /// [`Msi::limit_vectors`].
    available: u32,
    registers: Registers,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    enabled: bool,
    /// Logarithm of the number of vectors in use.
    multiple_enable: u32,
    address_low: u32,
    address_high: u32,
    data: u32,
    mask: u32,
}

impl Registers {
    fn vectors(&self) -> u8 {
        1 << self.multiple_enable.min(5)
    }

    /// Lowers the number of vectors in use to 2 to the power of `available`, and clears the mask
    /// bits of the other vectors.
    fn clamp(&mut self, available: u32) {
        self.multiple_enable = self.multiple_enable.min(available);
        self.mask &= bits(1 << available);
    }

    fn messages(&self) -> Vec<Message> {
        // The function replaces the low bits of the data, and ignores the guest's value of these
        // bits.
        let low = u32::from(self.vectors()) - 1;
        (0..self.vectors())
            .map(|vector| Message {
                address: u64::from(self.address_high) << 32 | u64::from(self.address_low),
                data: self.data & !low | u32::from(vector),
            })
            .collect()
    }

    /// The masked vectors among those in use.
    fn masked(&self) -> u32 {
        self.mask & bits(self.vectors())
    }
}

/// A mask of the lowest `vectors` bits, 1 to 32.
fn bits(vectors: u8) -> u32 {
    u32::MAX >> 32u32.saturating_sub(vectors.into()).min(31)
}

impl Msi {
    /// After power-on: disabled.
    pub fn new(capability: MsiCapability) -> Self {
        let vectors = capability.max_vectors.clamp(1, MAX_VECTORS);
        let capability = MsiCapability {
            // Rounded down to a power of two, because the field holds a logarithm.
            max_vectors: 1 << vectors.ilog2(),
            ..capability
        };
        Self {
            capability,
            available: capability.max_vectors.ilog2(),
            registers: Registers::default(),
        }
    }

    /// The capability at power-on.
    pub fn capability(&self) -> &MsiCapability {
        &self.capability
    }

    /// Whether the function uses MSI.
    pub fn is_enabled(&self) -> bool {
        self.registers.enabled
    }

    /// The number of vectors that the guest uses.
    pub fn vectors(&self) -> u8 {
        self.registers.vectors()
    }

    /// The messages of the vectors in use, masked vectors included.
    pub fn messages(&self) -> Vec<Message> {
        self.registers.messages()
    }

    /// The masked vectors among those in use, as a bit mask.
    pub fn masked(&self) -> u32 {
        self.registers.masked()
    }

    /// Lowers both fields to at most `vectors`, rounded down to a power of two, and at least one.
    /// The number never rises again before [`Msi::reset`].
    pub fn limit_vectors(&mut self, vectors: u8) {
        self.available = self.available.min(vectors.checked_ilog2().unwrap_or(0));
        self.registers.clamp(self.available);
    }

    /// Clears MSI Enable, because the host could not turn MSI on. The guest may try again.
    pub fn refuse_enable(&mut self) {
        self.registers.enabled = false;
    }

    /// Reads bytes of the capability; `pending` returns whether an interrupt of a vector is
    /// pending. Bytes of `data` for ID and link, which are in the configuration space, stay
    /// unchanged, and so do bytes after the capability.
    pub fn capability_read(&self, offset: u16, data: &mut [u8], pending: &dyn Fn(u8) -> bool) {
        let offset = u64::from(offset);
        let (c, r) = (&self.capability, &self.registers);
        let [_, _, low, high] = self.control().to_le_bytes();
        extract([low, high], 2, offset, data);
        extract(r.address_low.to_le_bytes(), 4, offset, data);
        if c.address_64 {
            extract(r.address_high.to_le_bytes(), 8, offset, data);
        }
        let [low, high, ..] = r.data.to_le_bytes();
        extract([low, high], c.data_offset(), offset, data);
        if let Some(mask) = c.mask_offset() {
            // Two reserved bytes. Without mask bits the capability ends before them.
            extract([0, 0], mask - 2, offset, data);
            extract(r.mask.to_le_bytes(), mask, offset, data);
            let bits = (0..1u8 << self.available)
                .filter(|vector| pending(*vector))
                .fold(0u32, |bits, vector| bits | 1 << vector);
            extract(bits.to_le_bytes(), mask + 4, offset, data);
        }
    }

    /// A guest's write of bytes of the capability. Read-only bytes keep their value. A number of
    /// vectors above the available number is lowered to it.
    pub fn capability_write(&mut self, offset: u16, data: &[u8]) {
        let old = self.registers;
        let c = &self.capability;
        let at = u64::from(offset);
        let control = merge(self.control(), 0, ENABLE | MULTIPLE_ENABLE, at, data);
        let wanted = (control & MULTIPLE_ENABLE) >> MULTIPLE_ENABLE_SHIFT;
        let mut new = Registers {
            enabled: control & ENABLE != 0,
            multiple_enable: wanted,
            address_low: merge(old.address_low, 4, ADDRESS_LOW, at, data),
            data: merge(old.data, c.data_offset(), DATA, at, data),
            ..old
        };
        if c.address_64 {
            new.address_high = merge(old.address_high, 8, !0, at, data);
        }
        if let Some(mask) = c.mask_offset() {
            new.mask = merge(old.mask, mask, !0, at, data);
        }
        new.clamp(self.available);
        self.registers = new;
    }

    /// Sets all registers to their values at power-on.
    pub fn reset(&mut self) {
        *self = Self::new(self.capability);
    }

    /// The first dword of the capability without ID and link.
    fn control(&self) -> u32 {
        let c = &self.capability;
        let enable = if self.registers.enabled { ENABLE } else { 0 };
        let address = if c.address_64 { ADDRESS_64 } else { 0 };
        let masking = match c.per_vector_masking {
            true => PER_VECTOR_MASKING,
            false => 0,
        };
        enable
            | self.available << CAPABLE_SHIFT
            | self.registers.multiple_enable << MULTIPLE_ENABLE_SHIFT
            | address
            | masking
    }
}

#[cfg(test)]
mod tests;
