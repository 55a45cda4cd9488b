//! MSI as a state machine: one capability with the message for 1 to 32 vectors
//! (PCI Express 6.0, 7.7.1; PCI 3.0, 6.8.1).
//!
//! The capability comes in four shapes: 32 or 64-bit address, with or without a mask bit for each
//! vector. The device says how many vectors it has (Multiple Message Capable), the guest how many
//! of them it uses (Multiple Message Enable), and vector i then sends the data with its low bits
//! replaced by i.
//!
//! A host may have fewer vectors to give than the device has. What it gives is what both fields say
//! from then on ([`Msi::grant`]): Multiple Message Capable is what a driver asks for by, and Multiple
//! Message Enable what it finds when it looks again.

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

/// Where the capability is and which shape it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiCapability {
    /// Of the capability, in configuration space.
    pub offset: u16,
    /// Whether it has the upper half of the address.
    pub address_64: bool,
    /// Whether it has mask and pending bits.
    pub per_vector_masking: bool,
    /// How many vectors the function can have: 1, 2, 4, 8, 16 or 32. May be lowered before it is
    /// shown to a guest.
    pub max_vectors: u8,
}

impl MsiCapability {
    /// Finds and reads the capability.
    pub fn parse(image: &[u8]) -> Option<Self> {
        let offset = capability::find(image, id::MSI)?.offset;
        let control = u32::from(u16_at(image, usize::from(offset) + 2)?) << 16;
        // 6 and 7 are reserved.
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

/// What a guest's access changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MsiEffect {
    /// The function uses MSI now.
    Enable {
        /// What each vector sends; as many as the guest uses.
        messages: Vec<Message>,
        /// Bit i: vector i is masked from the start.
        masked: u32,
    },
    /// The function uses it no more.
    Disable,
    /// A vector is masked; what comes is pending.
    Mask {
        /// Which.
        vector: u8,
    },
    /// A vector is masked no more.
    Unmask {
        /// Which.
        vector: u8,
    },
    /// The vectors, masked ones as well, send other messages; as many as before.
    Update {
        /// What each vector sends now.
        messages: Vec<Message>,
    },
}

/// MSI of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msi {
    capability: MsiCapability,
    /// Logarithm of the number of vectors that there are: the device's, or fewer once the host had
    /// fewer to give.
    granted: u32,
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

    /// The guest's choice, as far as there are vectors for it.
    fn clamp(&mut self, granted: u32) {
        self.multiple_enable = self.multiple_enable.min(granted);
        self.mask &= bits(1 << granted);
    }

    fn messages(&self) -> Vec<Message> {
        // The low bits are the function's to change, whatever the guest has put there.
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

/// A bit for each of so many vectors, 1 to 32.
fn bits(vectors: u8) -> u32 {
    u32::MAX >> 32u32.saturating_sub(vectors.into()).min(31)
}

impl Msi {
    /// After power-on: disabled.
    pub fn new(capability: MsiCapability) -> Self {
        let vectors = capability.max_vectors.clamp(1, MAX_VECTORS);
        let capability = MsiCapability {
            // The next lower power of two: never more than said.
            max_vectors: 1 << vectors.ilog2(),
            ..capability
        };
        Self {
            capability,
            granted: capability.max_vectors.ilog2(),
            registers: Registers::default(),
        }
    }

    /// The capability as it is at power-on.
    pub fn capability(&self) -> &MsiCapability {
        &self.capability
    }

    /// Whether the function uses MSI.
    pub fn is_enabled(&self) -> bool {
        self.registers.enabled
    }

    /// How many vectors the guest uses.
    pub fn vectors(&self) -> u8 {
        self.registers.vectors()
    }

    /// What each of the vectors in use sends, or would send.
    pub fn messages(&self) -> Vec<Message> {
        self.registers.messages()
    }

    /// The masked vectors among those in use, a bit each.
    pub fn masked(&self) -> u32 {
        self.registers.masked()
    }

    /// The host has no more than so many vectors to give: the next lower power of two is what there
    /// is, in Multiple Message Capable and in Multiple Message Enable, and at least one. Never gives
    /// more than before; a reset does.
    ///
    /// The caller makes it so, who knows what there is: no effects.
    pub fn grant(&mut self, vectors: u8) {
        self.granted = self.granted.min(vectors.checked_ilog2().unwrap_or(0));
        self.registers.clamp(self.granted);
    }

    /// MSI could not be turned on: the guest finds it off, and may try again.
    pub fn refuse(&mut self) {
        self.registers.enabled = false;
    }

    /// Whether a vector's message is held back: masked, not in use, or MSI disabled.
    pub fn is_masked(&self, vector: u8) -> bool {
        !self.registers.enabled
            || vector >= self.registers.vectors()
            || self.registers.masked() >> vector & 1 != 0
    }

    /// Reads bytes of the capability; `pending` says whether an interrupt of a vector waits. ID
    /// and link are the configuration space's: those bytes of `data` stay as they are, as do bytes
    /// behind the capability.
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
            // Reserved here; where there are no masks, these bytes are behind the capability.
            extract([0, 0], mask - 2, offset, data);
            extract(r.mask.to_le_bytes(), mask, offset, data);
            let bits = (0..1u8 << self.granted)
                .filter(|vector| pending(*vector))
                .fold(0u32, |bits, vector| bits | 1 << vector);
            extract(bits.to_le_bytes(), mask + 4, offset, data);
        }
    }

    /// A guest's write of bytes of the capability, wherever in the access its registers are.
    ///
    /// A number of vectors above what there is becomes that. A change of the number while
    /// enabled is a new beginning: `Disable`, then `Enable`.
    pub fn capability_write(&mut self, offset: u16, data: &[u8]) -> Vec<MsiEffect> {
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
        new.clamp(self.granted);
        self.registers = new;
        changes(&old, &new)
    }

    /// Back to power-on.
    pub fn reset(&mut self) -> Vec<MsiEffect> {
        let old = std::mem::take(&mut self.registers);
        self.granted = self.capability.max_vectors.ilog2();
        changes(&old, &self.registers)
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
            | self.granted << CAPABLE_SHIFT
            | self.registers.multiple_enable << MULTIPLE_ENABLE_SHIFT
            | address
            | masking
    }
}

fn changes(old: &Registers, new: &Registers) -> Vec<MsiEffect> {
    let enable = || MsiEffect::Enable {
        messages: new.messages(),
        masked: new.masked(),
    };
    match (old.enabled, new.enabled) {
        (false, false) => return Vec::new(),
        (false, true) => return vec![enable()],
        (true, false) => return vec![MsiEffect::Disable],
        (true, true) if old.vectors() != new.vectors() => {
            return vec![MsiEffect::Disable, enable()];
        }
        (true, true) => {}
    }
    let mut effects = Vec::new();
    let messages = new.messages();
    if messages != old.messages() {
        effects.push(MsiEffect::Update { messages });
    }
    let changed = old.masked() ^ new.masked();
    for vector in (0..new.vectors()).filter(|vector| changed >> vector & 1 != 0) {
        effects.push(match new.masked() >> vector & 1 {
            0 => MsiEffect::Unmask { vector },
            _ => MsiEffect::Mask { vector },
        });
    }
    effects
}

#[cfg(test)]
mod tests;
