//! MSI-X as a state machine: the capability, the vector table and the pending bits
//! (PCI Express 6.0, 7.7.2; PCI 3.0, 6.8.2).
//!
//! A vector is *live* when its message is sent as soon as its interrupt comes: MSI-X enabled,
//! neither the function nor the vector masked. Effects tell how the live vectors change and nothing
//! else, so that a guest which rewrites the same values costs nothing further down.

use super::Message;
use super::capability::{self, id};
use super::lanes::{extract, merge, touches, u16_at, u32_at};

/// Size of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Size of the capability.
pub const CAPABILITY_SIZE: u16 = 12;
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

    /// What a vector sends, or would send.
    pub fn message(&self, vector: u16) -> Option<Message> {
        self.table.get(usize::from(vector)).map(Entry::message)
    }

    /// Reads bytes of the capability. ID and link are the configuration space's: those bytes of
    /// `data` stay as they are, as do bytes behind the capability.
    pub fn capability_read(&self, offset: u16, data: &mut [u8]) {
        let offset = u64::from(offset);
        let [_, _, low, high] = self.control().to_le_bytes();
        for (byte, position) in [low, high].into_iter().zip(2u64..) {
            let index = position.checked_sub(offset);
            let index = index.and_then(|i| usize::try_from(i).ok());
            if let Some(to) = index.and_then(|i| data.get_mut(i)) {
                *to = byte;
            }
        }
        let c = &self.capability;
        let table = c.table_offset & !BIR | u32::from(c.table_bar) & BIR;
        let pba = c.pba_offset & !BIR | u32::from(c.pba_bar) & BIR;
        extract(table, 4, offset, data);
        extract(pba, 8, offset, data);
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
            extract(entry.address_low, at, offset, data);
            extract(entry.address_high, at + 4, offset, data);
            extract(entry.data, at + 8, offset, data);
            extract(entry.control, at + 12, offset, data);
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn msix(vectors: u16) -> Msix {
        Msix::new(MsixCapability {
            offset: 0x70,
            vectors,
            table_bar: 4,
            table_offset: 0x2000,
            pba_bar: 4,
            pba_offset: 0x3000,
        })
    }

    fn unmask(vector: u16, address: u64, data: u32) -> MsixEffect {
        let message = Message { address, data };
        MsixEffect::Unmask { vector, message }
    }

    const ON: [u8; 2] = [0, 0x80];
    const ON_MASKED: [u8; 2] = [0, 0xc0];
    const OFF: [u8; 2] = [0, 0];

    #[test]
    fn parses_only_bars_that_exist() {
        let mut image = vec![0; 256];
        image[0x06] = 0x10;
        image[0x34] = 0x70;
        image[0x70..0x7c].copy_from_slice(&[0x11, 0, 0x40, 0x80, 4, 0x20, 0, 0, 5, 0x30, 0, 0]);
        let cap = MsixCapability::parse(&image).unwrap();
        assert_eq!((cap.offset, cap.vectors), (0x70, 65));
        assert_eq!((cap.table_bar, cap.table_offset), (4, 0x2000));
        assert_eq!((cap.pba_bar, cap.pba_offset), (5, 0x3000));
        assert_eq!((cap.table_size(), cap.pba_size()), (65 * 16, 16));
        image[0x74] = 6;
        assert_eq!(MsixCapability::parse(&image), None);
        image[0x74] = 0;
        image[0x78] = 7;
        assert_eq!(MsixCapability::parse(&image), None);
        assert_eq!(MsixCapability::parse(&image[..0x72]), None);
        assert_eq!(MsixCapability::parse(&[]), None);
        assert_eq!(msix(0).capability().vectors, 1);
        assert_eq!(msix(!0).capability().vectors, 2048);
    }

    /// Rule: the control word may come as two bytes, as one, or with the whole dword before it.
    #[test]
    fn control_in_any_access() {
        let accesses: [(u16, &[u8]); 4] = [
            (2, &[0xff, 0xbf]),
            (3, &[0x80]),
            (0, &[0xff, 0xff, 0xff, 0x80]),
            (1, &[0, 0, 0x80, 0, 0, 0, 0]),
        ];
        for (offset, data) in accesses {
            let mut m = msix(3);
            assert_eq!(m.control_write(offset, data), [MsixEffect::Enable]);
            let mut cap = [0xaa; 16];
            m.capability_read(0, &mut cap);
            let registers = [0x02, 0x80, 4, 0x20, 0, 0, 4, 0x30, 0, 0];
            assert_eq!(cap[..2], [0xaa; 2]);
            assert_eq!(cap[2..12], registers);
            assert_eq!(cap[12..], [0xaa; 4]);
        }
        let mut m = msix(3);
        for (offset, data) in [
            (2, &[0xff, 0x3f][..]),
            (4, &[0xff; 8]),
            (u16::MAX, &[0xff; 8]),
        ] {
            assert_eq!(m.control_write(offset, data), []);
        }
        let mut byte = [0];
        m.control_write(2, &ON_MASKED);
        m.capability_read(3, &mut byte);
        assert_eq!(byte, [0xc0]);
    }

    #[test]
    fn life_of_a_vector() {
        let mut m = msix(2);
        assert_eq!(m.table_write(12, &[0; 4]), []);
        assert_eq!(m.table_write(0, &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0]), []);
        assert_eq!(m.table_write(8, &[0x41, 0, 0, 0]), []);
        assert_eq!(
            m.control_write(2, &ON),
            [MsixEffect::Enable, unmask(0, 0xfee0_0000, 0x41)]
        );
        assert!(!m.is_masked(0) && m.is_masked(1) && m.is_masked(9));
        // The same again is no change.
        assert_eq!(m.table_write(8, &[0x41, 0, 0, 0]), []);
        let message = Message {
            address: 0xfee0_1000,
            data: 0x41,
        };
        let update = MsixEffect::Update { vector: 0, message };
        assert_eq!(m.table_write(0, &[0x03, 0x10, 0xe0, 0xfe]), [update]);
        // Function mask, and what changes under it.
        assert_eq!(
            m.control_write(2, &ON_MASKED),
            [MsixEffect::Mask { vector: 0 }]
        );
        assert_eq!(m.table_write(28, &[0]), []);
        assert_eq!(
            m.control_write(2, &ON),
            [unmask(0, 0xfee0_1000, 0x41), unmask(1, 0, 0)]
        );
        assert_eq!(m.table_write(12, &[1]), [MsixEffect::Mask { vector: 0 }]);
        // A quadword of data and mask.
        assert_eq!(
            m.table_write(8, &[0x42, 0, 0, 0, 0, 0, 0, 0]),
            [unmask(0, 0xfee0_1000, 0x42)]
        );
        assert_eq!(m.control_write(2, &OFF), [MsixEffect::Disable]);
        assert!(m.is_masked(0));
        assert_eq!(m.table_write(8, &[0x43]), []);
        m.control_write(2, &ON);
        assert_eq!(m.reset(), [MsixEffect::Disable]);
        assert_eq!(m.reset(), []);
        assert_eq!(m, msix(2));
    }

    #[test]
    fn enabled_with_the_function_masked() {
        let mut m = msix(1);
        m.table_write(12, &[0]);
        assert_eq!(m.control_write(2, &ON_MASKED), [MsixEffect::Enable]);
        assert_eq!(m.control_write(2, &ON), [unmask(0, 0, 0)]);
        // One access across two vectors.
        let mut m = msix(2);
        m.control_write(2, &ON);
        assert_eq!(
            m.table_write(12, &[0; 20]),
            [unmask(0, 0, 0), unmask(1, 0, 0)]
        );
    }

    #[test]
    fn pending_bits() {
        let m = msix(70);
        let mut all = [0; 20];
        m.pba_read(0, &mut all, &|v| v == 1 || v >= 68);
        assert_eq!(all[..10], [2, 0, 0, 0, 0, 0, 0, 0, 0x30, 0]);
        assert_eq!(all[10..16], [0; 6]);
        assert_eq!(all[16..], [0xff; 4]);
        m.pba_read(u64::MAX, &mut all, &|_| true);
        assert_eq!(all, [0xff; 20]);
    }

    /// What the effects have made of the function, as the rooms below see it.
    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        enabled: bool,
        live: BTreeMap<u16, Message>,
    }

    impl Seen {
        /// Every effect must be one that changes something.
        fn apply(&mut self, effect: MsixEffect) {
            match effect {
                MsixEffect::Enable => assert!(!std::mem::replace(&mut self.enabled, true)),
                MsixEffect::Disable => {
                    assert!(std::mem::take(self).enabled);
                }
                MsixEffect::Unmask { vector, message } => {
                    assert!(self.enabled);
                    assert_eq!(self.live.insert(vector, message), None);
                }
                MsixEffect::Mask { vector } => assert!(self.live.remove(&vector).is_some()),
                MsixEffect::Update { vector, message } => {
                    let old = self.live.insert(vector, message);
                    assert!(old.is_some_and(|old| old != message));
                }
            }
        }
    }

    /// The table as plain memory, and the control word.
    struct Model {
        table: Vec<u8>,
        control: u16,
    }

    impl Model {
        fn seen(&self) -> Seen {
            let live = self
                .table
                .chunks(16)
                .enumerate()
                .filter(|(_, entry)| self.control & 0xc000 == 0x8000 && entry[12] & 1 == 0);
            Seen {
                enabled: self.control & 0x8000 != 0,
                live: live
                    .map(|(vector, entry)| {
                        let address = u64::from_le_bytes(entry[..8].try_into().unwrap());
                        let data = u32::from_le_bytes(entry[8..12].try_into().unwrap());
                        (vector as u16, Message { address, data })
                    })
                    .collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn as_a_plain_table(
            vectors in 1u16..6,
            steps in prop::collection::vec(
                (0u8..8, 0u64..100, prop::collection::vec(prop_oneof![Just(0u8), Just(0x80), any::<u8>()], 0..9)),
                0..60,
            ),
        ) {
            let mut m = msix(vectors);
            let mut model = Model {
                table: msix_power_on(vectors),
                control: 0,
            };
            let mut seen = Seen::default();
            for (kind, offset, data) in steps {
                let effects = match kind {
                    0 => {
                        model.table = msix_power_on(vectors);
                        model.control = 0;
                        m.reset()
                    }
                    1..=3 => {
                        let offset = offset % 12;
                        for (i, byte) in data.iter().enumerate() {
                            if offset as usize + i == 3 {
                                model.control = u16::from(byte & 0xc0) << 8;
                            }
                        }
                        m.control_write(offset as u16, &data)
                    }
                    _ => {
                        for (i, byte) in data.iter().enumerate() {
                            let at = offset as usize + i;
                            let mask = match at % 16 { 0 => 0xfc, 12 => 1, 13..16 => 0, _ => 0xff };
                            if let Some(to) = model.table.get_mut(at) { *to = byte & mask; }
                        }
                        m.table_write(offset, &data)
                    }
                };
                prop_assert!(effects.len() <= usize::from(vectors) + 1);
                effects.into_iter().for_each(|e| seen.apply(e));
                prop_assert_eq!(&seen, &model.seen());
                prop_assert_eq!(m.is_enabled(), seen.enabled);
                for vector in 0..vectors {
                    prop_assert_eq!(m.is_masked(vector), !seen.live.contains_key(&vector));
                }
                let mut read = vec![0; data.len()];
                m.table_read(offset, &mut read);
                for (i, byte) in read.iter().enumerate() {
                    prop_assert_eq!(byte, model.table.get(offset as usize + i).unwrap_or(&0xff));
                }
            }
        }

        #[test]
        fn far_offsets(offset: u64, cap_offset: u16, len in 0usize..20) {
            let mut m = msix(2048);
            m.control_write(2, &ON);
            let mut data = vec![0; len];
            prop_assert!(m.table_write(offset, &data).len() <= 3);
            m.table_read(offset, &mut data);
            m.pba_read(offset, &mut data, &|_| true);
            m.capability_read(cap_offset, &mut data);
        }
    }

    fn msix_power_on(vectors: u16) -> Vec<u8> {
        [&[0; 12][..], &[1, 0, 0, 0]]
            .concat()
            .repeat(vectors.into())
    }
}
