//! MSI-X as a state machine: the capability, the vector table and the pending bits
//! (PCI Express 6.0, 7.7.2; PCI 3.0, 6.8.2).
//!
//! A vector is *live* when its message is sent as soon as its interrupt comes: MSI-X enabled,
//! neither the function nor the vector masked. Effects tell how the live vectors change and nothing
//! else, so that a guest which rewrites the same values costs nothing further down.

use crate::byte_enable::{extract, merge, touches, u16_at, u32_at};
use crate::capability::id;
use crate::{Message, capability};

/// Size of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Size of the capability.
pub const CAPABILITY_SIZE: u16 = 12;
/// The first vector that a driver may leave unused, with all behind it.
pub const FIRST_SPARE: u16 = 1;
/// The most vectors that a function can have.
pub const MAX_VECTORS: u16 = 2048;

/// Message Control is the upper half of the capability's first dword.
const ENABLE: u32 = 1 << 31;
const FUNCTION_MASK: u32 = 1 << 30;
const TABLE_SIZE_SHIFT: u32 = 16;
/// BIR: which BAR; the rest of the dword is the offset in it.
const BIR: u32 = 7;
const VECTOR_MASK: u32 = 1;
/// Messages are dword-aligned.
const ADDRESS_LOW: u32 = !3;

/// Where the capability is and what it says of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    /// Of the capability, in configuration space.
    pub offset: u16,
    /// Entries in the table, 1 to 2048.
    pub vectors: u16,
    /// The BAR with the table.
    pub table_bar: u8,
    /// Of the table in its BAR, a multiple of 8.
    pub table_offset: u32,
    /// The BAR with the pending bits.
    pub pba_bar: u8,
    /// Of the pending bits in their BAR, a multiple of 8.
    pub pba_offset: u32,
}

impl MsixCapability {
    /// Finds and reads the capability. `None` where there is none, or where it points at a BAR that
    /// does not exist. Whether table and pending bits fit into their BARs is for the caller.
    pub fn parse(image: &[u8]) -> Option<Self> {
        let offset = capability::find(image, id::MSIX)?.offset;
        let at = usize::from(offset);
        let control = u16_at(image, at + 2)?;
        let (table_bar, table_offset) = place(u32_at(image, at + 4)?)?;
        let (pba_bar, pba_offset) = place(u32_at(image, at + 8)?)?;
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

/// BAR and offset of a table or PBA register.
fn place(register: u32) -> Option<(u8, u32)> {
    let bar = u8::try_from(register & BIR).ok()?;
    (bar <= 5).then_some((bar, register & !BIR))
}

/// What a guest's access changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixEffect {
    /// The function uses MSI-X now; no vector is live yet.
    Enable,
    /// The function uses it no more, and no vector is live.
    Disable,
    /// A vector becomes live.
    Unmask {
        /// Which.
        vector: u16,
        /// What it sends.
        message: Message,
    },
    /// A vector is live no more; what comes is pending.
    Mask {
        /// Which.
        vector: u16,
    },
    /// A live vector sends another message.
    Update {
        /// Which.
        vector: u16,
        /// What it sends now.
        message: Message,
    },
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

    /// Whether a vector is not live, for whatever reason. One that does not exist is masked.
    pub fn is_masked(&self, vector: u16) -> bool {
        let entry = self.table.get(usize::from(vector));
        !self.open() || entry.is_none_or(Entry::is_masked)
    }

    /// Whether a vector behind the first is live, or may soon be because it has a message, while the
    /// function's vectors can be.
    pub fn uses_spares(&self) -> bool {
        let mut spares = self.table.iter().skip(FIRST_SPARE.into());
        self.open() && spares.any(|entry| *entry != Entry::POWER_ON)
    }

    /// What a vector sends, or would send.
    pub fn message(&self, vector: u16) -> Option<Message> {
        self.table.get(usize::from(vector)).map(Entry::message)
    }

    /// Reads bytes of the capability. ID and link are the configuration space's: those bytes of
    /// `data` stay as they are, as do bytes behind the capability.
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

    /// A guest's write of bytes of the capability. Only Enable and Function Mask take it, wherever
    /// in the access they are.
    pub fn control_write(&mut self, offset: u16, data: &[u8]) -> Vec<MsixEffect> {
        let was_open = self.open();
        let was_enabled = self.enabled;
        let writable = ENABLE | FUNCTION_MASK;
        let control = merge(self.control(), 0, writable, offset.into(), data);
        self.enabled = control & ENABLE != 0;
        self.function_masked = control & FUNCTION_MASK != 0;

        let mut effects = Vec::new();
        match (was_enabled, self.enabled) {
            (true, false) => return vec![MsixEffect::Disable],
            (false, true) => effects.push(MsixEffect::Enable),
            _ => {}
        }
        let open = self.open();
        if was_open != open {
            let unmasked = self.entries().filter(|(_, entry)| !entry.is_masked());
            effects.extend(unmasked.map(|(vector, entry)| match open {
                true => MsixEffect::Unmask {
                    vector,
                    message: entry.message(),
                },
                false => MsixEffect::Mask { vector },
            }));
        }
        effects
    }

    /// Reads bytes of the table; ones behind it.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for (vector, entry) in self.entries().skip(skipped(offset)) {
            let at = u64::from(vector) * ENTRY_SIZE;
            if !touches(offset, data.len(), at, ENTRY_SIZE) {
                break;
            }
            extract(entry.address_low.to_le_bytes(), at, offset, data);
            extract(entry.address_high.to_le_bytes(), at + 4, offset, data);
            extract(entry.data.to_le_bytes(), at + 8, offset, data);
            extract(entry.control.to_le_bytes(), at + 12, offset, data);
        }
    }

    /// A guest's write of bytes of the table; dropped behind it. The specification has dwords and
    /// aligned quadwords only; any other access changes the bytes that it covers.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) -> Vec<MsixEffect> {
        let open = self.open();
        let mut effects = Vec::new();
        for (vector, entry) in (0..).zip(&mut self.table).skip(skipped(offset)) {
            let at = u64::from(vector) * ENTRY_SIZE;
            if !touches(offset, data.len(), at, ENTRY_SIZE) {
                break;
            }
            let old = *entry;
            entry.address_low = merge(old.address_low, at, ADDRESS_LOW, offset, data);
            entry.address_high = merge(old.address_high, at + 4, !0, offset, data);
            entry.data = merge(old.data, at + 8, !0, offset, data);
            entry.control = merge(old.control, at + 12, VECTOR_MASK, offset, data);
            if !open {
                continue;
            }
            let message = entry.message();
            match (old.is_masked(), entry.is_masked()) {
                (true, false) => effects.push(MsixEffect::Unmask { vector, message }),
                (false, true) => effects.push(MsixEffect::Mask { vector }),
                (false, false) if message != old.message() => {
                    effects.push(MsixEffect::Update { vector, message });
                }
                _ => {}
            }
        }
        effects
    }

    /// Reads bytes of the pending bits; `pending` says whether an interrupt of a vector waits.
    /// Bits of vectors that do not exist are zero, bytes behind the array ones.
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

    /// An `Unmask` for each vector that is live now, for a host that begins anew.
    pub fn live(&self) -> Vec<MsixEffect> {
        if !self.open() {
            return Vec::new();
        }
        let unmasked = self.entries().filter(|(_, entry)| !entry.is_masked());
        let effects = unmasked.map(|(vector, entry)| MsixEffect::Unmask {
            vector,
            message: entry.message(),
        });
        effects.collect()
    }

    /// A vector could not be had: the guest finds it masked, and may try again.
    pub fn refuse(&mut self, vector: u16) {
        if let Some(entry) = self.table.get_mut(usize::from(vector)) {
            entry.control |= VECTOR_MASK;
        }
    }

    /// MSI-X could not be turned on: the guest finds it off, and may try again.
    pub fn refuse_enable(&mut self) {
        self.enabled = false;
    }

    /// Back to power-on.
    pub fn reset(&mut self) -> Vec<MsixEffect> {
        let was_enabled = self.enabled;
        *self = Self::new(self.capability);
        was_enabled
            .then_some(MsixEffect::Disable)
            .into_iter()
            .collect()
    }

    /// Whether unmasked vectors are live.
    fn open(&self) -> bool {
        self.enabled && !self.function_masked
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

    fn entries(&self) -> impl Iterator<Item = (u16, &Entry)> {
        (0..).zip(&self.table)
    }
}

/// How many entries lie wholly before an access.
fn skipped(offset: u64) -> usize {
    usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
