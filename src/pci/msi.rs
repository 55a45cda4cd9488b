//! MSI as a state machine: one capability with the message for 1 to 32 vectors
//! (PCI Express 6.0, 7.7.1; PCI 3.0, 6.8.1).
//!
//! The capability comes in four shapes: 32 or 64-bit address, with or without a mask bit for each
//! vector. The device says how many vectors it has (Multiple Message Capable), the guest how many
//! of them it uses (Multiple Message Enable), and vector i then sends the data with its low bits
//! replaced by i.

use super::Message;
use super::capability::{self, id};
use super::lanes::{extract, merge, u16_at};

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

    /// Bits of the mask and pending registers that exist.
    fn vector_bits(&self) -> u32 {
        u32::MAX >> (32 - u32::from(self.max_vectors.clamp(1, MAX_VECTORS)))
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
        self.mask & u32::MAX >> (32 - u32::from(self.vectors()))
    }
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
            registers: Registers::default(),
        }
    }

    /// The capability as the guest sees it.
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
            let bits = (0..c.max_vectors)
                .filter(|vector| pending(*vector))
                .fold(0u32, |bits, vector| bits | 1 << vector);
            extract(bits.to_le_bytes(), mask + 4, offset, data);
        }
    }

    /// A guest's write of bytes of the capability, wherever in the access its registers are.
    ///
    /// A number of vectors above what the device has becomes that. A change of the number while
    /// enabled is a new beginning: `Disable`, then `Enable`.
    pub fn capability_write(&mut self, offset: u16, data: &[u8]) -> Vec<MsiEffect> {
        let old = self.registers;
        let c = &self.capability;
        let at = u64::from(offset);
        let control = merge(self.control(), 0, ENABLE | MULTIPLE_ENABLE, at, data);
        let wanted = (control & MULTIPLE_ENABLE) >> MULTIPLE_ENABLE_SHIFT;
        let mut new = Registers {
            enabled: control & ENABLE != 0,
            multiple_enable: wanted.min(c.max_vectors.ilog2()),
            address_low: merge(old.address_low, 4, ADDRESS_LOW, at, data),
            data: merge(old.data, c.data_offset(), DATA, at, data),
            ..old
        };
        if c.address_64 {
            new.address_high = merge(old.address_high, 8, !0, at, data);
        }
        if let Some(mask) = c.mask_offset() {
            new.mask = merge(old.mask, mask, c.vector_bits(), at, data);
        }
        self.registers = new;
        changes(&old, &new)
    }

    /// Back to power-on.
    pub fn reset(&mut self) -> Vec<MsiEffect> {
        let old = std::mem::take(&mut self.registers);
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
            | c.max_vectors.clamp(1, MAX_VECTORS).ilog2() << CAPABLE_SHIFT
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cap(address_64: bool, per_vector_masking: bool, max_vectors: u8) -> MsiCapability {
        MsiCapability {
            offset: 0x50,
            address_64,
            per_vector_masking,
            max_vectors,
        }
    }

    fn messages(address: u64, data: impl IntoIterator<Item = u32>) -> Vec<Message> {
        let message = |data| Message { address, data };
        data.into_iter().map(message).collect()
    }

    #[test]
    fn parses_each_shape() {
        for (control, expected, size) in [
            (0x0000u16, cap(false, false, 1), 10),
            (0x0087, cap(true, false, 8), 14),
            (0x010a, cap(false, true, 32), 20),
            (0x018e, cap(true, true, 32), 24),
        ] {
            let mut image = vec![0; 256];
            image[0x06] = 0x10;
            image[0x34] = 0x50;
            image[0x50] = 5;
            image[0x52..0x54].copy_from_slice(&control.to_le_bytes());
            let parsed = MsiCapability::parse(&image).unwrap();
            assert_eq!((parsed, parsed.size()), (expected, size));
        }
        assert_eq!(MsiCapability::parse(&[0; 256]), None);
    }

    #[test]
    fn as_linux_does_it() {
        let mut msi = Msi::new(cap(true, false, 8));
        assert_eq!(msi.capability_write(4, &[0, 0x10, 0xe0, 0xfe]), []);
        assert_eq!(msi.capability_write(8, &[1, 0, 0, 0]), []);
        assert_eq!(msi.capability_write(12, &[0x33, 0x40]), []);
        let address = 0x1_fee0_1000;
        let enabled = MsiEffect::Enable {
            messages: messages(address, 0x4030..0x4034),
            masked: 0,
        };
        assert_eq!(msi.capability_write(2, &[0x21, 0]), [enabled]);
        assert_eq!(msi.vectors(), 4);
        assert!(!msi.is_masked(3) && msi.is_masked(4) && msi.is_masked(255));
        assert_eq!(msi.capability_write(12, &[0x33, 0x40, 0xff, 0xff]), []);
        let messages = messages(address, 0x4050..0x4054);
        let update = MsiEffect::Update { messages };
        assert_eq!(msi.capability_write(12, &[0x50]), [update]);
        let mut all = [0xaa; 16];
        msi.capability_read(0, &mut all, &|_| true);
        let expected = [
            0xaa, 0xaa, 0xa7, 0, 0, 0x10, 0xe0, 0xfe, 1, 0, 0, 0, 0x50, 0x40, 0xaa, 0xaa,
        ];
        assert_eq!(all, expected);
        assert_eq!(msi.reset(), [MsiEffect::Disable]);
        assert_eq!(msi.reset(), []);
    }

    /// Rule: the guest's number of vectors is never trusted.
    #[test]
    fn multiple_enable_is_clamped() {
        for (max, written, expected) in [(1, 7, 1), (8, 7, 8), (8, 2, 4), (32, 6, 32), (5, 5, 4)] {
            let mut msi = Msi::new(cap(false, false, max));
            let effects = msi.capability_write(0, &[0xff, 0xff, written << 4 | 1, 0xff]);
            assert_eq!(effects.len(), 1);
            assert_eq!(msi.vectors(), expected);
            assert_eq!(msi.messages().len(), usize::from(expected));
            let mut control = [0];
            msi.capability_read(2, &mut control, &|_| false);
            assert_eq!(1 << (control[0] >> 4 & 7), expected);
        }
        assert_eq!(Msi::new(cap(true, true, 0)).capability().max_vectors, 1);
    }

    #[test]
    fn masks_and_pending() {
        let mut msi = Msi::new(cap(false, true, 2));
        assert_eq!(msi.capability_write(12, &[0xff; 4]), []);
        let enabled = MsiEffect::Enable {
            messages: messages(0, [0, 1]),
            masked: 3,
        };
        assert_eq!(msi.capability_write(2, &[0x11]), [enabled]);
        assert_eq!(
            msi.capability_write(12, &[1]),
            [MsiEffect::Unmask { vector: 1 }]
        );
        let mut registers = [0; 8];
        msi.capability_read(12, &mut registers, &|vector| vector == 1);
        assert_eq!(registers, [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(
            msi.capability_write(12, &[3]),
            [MsiEffect::Mask { vector: 1 }]
        );
        // Fewer vectors while enabled begin anew.
        let enabled = MsiEffect::Enable {
            messages: messages(0, [0]),
            masked: 1,
        };
        assert_eq!(
            msi.capability_write(2, &[0x01]),
            [MsiEffect::Disable, enabled]
        );
    }

    /// What the effects have made of the function: messages and mask while enabled.
    type Seen = Option<(Vec<Message>, u32)>;

    /// Every effect must be one that changes something.
    fn apply(seen: &mut Seen, effect: MsiEffect) {
        match (effect, seen.take()) {
            (MsiEffect::Enable { messages, masked }, None) => *seen = Some((messages, masked)),
            (MsiEffect::Disable, Some(_)) => {}
            (MsiEffect::Mask { vector }, Some((m, mask))) if mask >> vector & 1 == 0 => {
                *seen = Some((m, mask | 1 << vector));
            }
            (MsiEffect::Unmask { vector }, Some((m, mask))) if mask >> vector & 1 == 1 => {
                *seen = Some((m, mask & !(1 << vector)));
            }
            (MsiEffect::Update { messages }, Some((old, mask)))
                if messages != old && messages.len() == old.len() =>
            {
                *seen = Some((messages, mask));
            }
            wrong => panic!("{wrong:?}"),
        }
    }

    proptest! {
        #[test]
        fn as_plain_registers(
            address_64: bool, masking: bool, log in 0u32..6,
            steps in prop::collection::vec(
                (0u16..28, prop::collection::vec(prop_oneof![Just(1u8), any::<u8>()], 0..9), 0u8..10), 0..60),
        ) {
            let c = cap(address_64, masking, 1 << log);
            let mut msi = Msi::new(c);
            let (data_at, mask_at) = if address_64 { (12, 16) } else { (8, 12) };
            let vector_bits = ((1u64 << (1 << log)) - 1) as u32;
            let fixed = log << 17 | u32::from(address_64) << 23 | u32::from(masking) << 24;
            let mut model = [0u8; 40];
            model[..4].copy_from_slice(&fixed.to_le_bytes());
            let mut writable = [0u8; 40];
            writable[2] = 0x71;
            writable[4..8].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff]);
            if address_64 { writable[8..12].fill(0xff); }
            writable[data_at..data_at + 2].fill(0xff);
            if masking { writable[mask_at..mask_at + 4].copy_from_slice(&vector_bits.to_le_bytes()); }
            let power_on = model;
            let mut seen = None;
            for (offset, data, reset) in steps {
                let effects = if reset == 0 {
                    model = power_on;
                    msi.reset()
                } else {
                    for (i, byte) in data.iter().enumerate() {
                        let at = usize::from(offset) + i;
                        model[at] = model[at] & !writable[at] | byte & writable[at];
                    }
                    let used = u32::from(model[2] >> 4 & 7).min(log);
                    model[2] = model[2] & !0x70 | (used as u8) << 4;
                    msi.capability_write(offset, &data)
                };
                prop_assert!(effects.len() <= 33);
                effects.into_iter().for_each(|e| apply(&mut seen, e));

                let size = usize::from(c.size());
                let mut read = [0; 40];
                msi.capability_read(0, &mut read, &|_| false);
                prop_assert_eq!(&read[..size], &model[..size]);
                prop_assert_eq!(&read[size..], &[0; 40][size..]);

                let count = 1u32 << (model[2] >> 4 & 7);
                let word = |at: usize| u32::from_le_bytes(model[at..at + 4].try_into().unwrap());
                let high = if address_64 { word(8) } else { 0 };
                let base = word(data_at) & 0xffff & !(count - 1);
                let mask = if masking { word(mask_at) } else { 0 };
                let expected = (model[2] & 1 == 1).then(|| (
                    messages(u64::from(high) << 32 | u64::from(word(4)), base..base + count),
                    mask & ((1u64 << count) - 1) as u32,
                ));
                prop_assert_eq!(&seen, &expected);
            }
        }

        #[test]
        fn far_offsets(offset: u16, len in 0usize..20) {
            let mut msi = Msi::new(cap(true, true, 32));
            let mut data = vec![0xff; len];
            msi.capability_write(offset, &data);
            msi.capability_read(offset, &mut data, &|_| true);
        }
    }
}
