//! Any accesses and events against a plain model of the specification: the same registers, and the
//! same messages sent in the same order.

use proptest::prelude::*;

use super::super::*;
use crate::msi::tests::cap;

/// A host's set-up: a message for each vector, and events that gather while the vector is masked.
#[derive(Default)]
struct Host {
    messages: Vec<Message>,
    masked: u32,
    gathered: u32,
    sent: Vec<Message>,
}

impl Host {
    /// Follows the registers after a write. If the registers ask for more than `vectors` vectors,
    /// limits them, and calls `limited` with the new number.
    fn follow(&mut self, msi: &mut Msi, vectors: u8, limited: impl FnOnce(u8)) {
        if msi.is_enabled() && usize::from(msi.vectors()) == self.messages.len() {
            self.messages = msi.messages();
            let due = self.gathered & !msi.masked();
            self.masked = msi.masked();
            self.gathered &= !due;
            for vector in (0..32).filter(|v| due >> v & 1 == 1) {
                self.event(vector);
            }
            return;
        }
        // A change of the number of vectors starts the set-up anew.
        (self.messages, self.masked, self.gathered) = (Vec::new(), 0, 0);
        if !msi.is_enabled() {
            return;
        }
        if msi.vectors() > vectors {
            match vectors {
                0 => msi.refuse_enable(),
                _ => msi.limit_vectors(vectors),
            }
            limited(vectors);
        }
        if msi.is_enabled() {
            (self.messages, self.masked) = (msi.messages(), msi.masked());
        }
    }

    fn event(&mut self, vector: u8) {
        let message = self.messages.get(usize::from(vector));
        match message {
            Some(_) if self.masked >> vector & 1 == 1 => self.gathered |= 1 << vector,
            message => self.sent.extend(message),
        }
    }
}

/// The capability by the specification (PCI 3.0, 6.8.1): registers as bytes, and the behaviour of
/// the function.
struct Model {
    /// Message Control, address, data, mask bits; pending bits apart.
    bytes: [u8; 40],
    writable: [u8; 40],
    data: usize,
    mask: Option<usize>,
    pending: u32,
    sent: Vec<Message>,
}

impl Model {
    fn new(c: &MsiCapability, log: u8) -> Self {
        let (mut bytes, mut writable) = ([0; 40], [0; 40]);
        bytes[2] = log << 1 | u8::from(c.address_64) << 7;
        bytes[3] = c.per_vector_masking.into();
        // Enable, Multiple Message Enable; the address is a dword's.
        writable[2] = 0x71;
        writable[4..8].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff]);
        let data = if c.address_64 { 12 } else { 8 };
        writable[8..data].fill(0xff);
        writable[data..data + 2].fill(0xff);
        let mask = c.per_vector_masking.then_some(data + 4);
        if let Some(mask) = mask {
            let all = u32::MAX >> (32 - (1 << log));
            writable[mask..mask + 4].copy_from_slice(&all.to_le_bytes());
        }
        Self {
            bytes,
            writable,
            data,
            mask,
            pending: 0,
            sent: Vec::new(),
        }
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn enabled(&self) -> bool {
        self.bytes[2] & 1 == 1
    }

    /// Multiple Message Capable and Multiple Message Enable.
    fn capable(&self) -> u8 {
        self.bytes[2] >> 1 & 7
    }

    fn log(&self) -> u8 {
        self.bytes[2] >> 4 & 7
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let before = (self.enabled(), self.log());
        for (at, byte) in (offset..).zip(data) {
            self.bytes[at] = self.bytes[at] & !self.writable[at] | byte & self.writable[at];
        }
        self.clamp();
        if before != (self.enabled(), self.log()) {
            self.pending = 0;
        }
        // Pending messages of unmasked vectors are sent, in the order of the vectors.
        let waiting = std::mem::take(&mut self.pending);
        (0..32)
            .filter(|v| waiting >> v & 1 == 1)
            .for_each(|v| self.event(v));
    }

    /// No more vectors are in use than the device has.
    fn clamp(&mut self) {
        let log = self.log().min(self.capable());
        self.bytes[2] = self.bytes[2] & !0x70 | log << 4;
    }

    fn event(&mut self, vector: u8) {
        if !self.enabled() || vector >= 1 << self.log() {
            return;
        }
        if self
            .mask
            .is_some_and(|at| self.dword(at) >> vector & 1 == 1)
        {
            self.pending |= 1 << vector;
            return;
        }
        let high = if self.data == 12 { self.dword(8) } else { 0 };
        let group = (1 << self.log()) - 1;
        self.sent.push(Message {
            address: u64::from(high) << 32 | u64::from(self.dword(4)),
            data: self.dword(self.data) & 0xffff & !group | u32::from(vector),
        });
    }

    /// The device has fewer vectors, and mask bits only for those.
    fn limit(&mut self, c: &MsiCapability, vectors: u8) {
        let log = self.capable().min(vectors.ilog2() as u8);
        let old = self.bytes;
        let sent = std::mem::take(&mut self.sent);
        *self = Self {
            sent,
            ..Self::new(c, log)
        };
        for (at, byte) in old.iter().enumerate() {
            self.bytes[at] |= byte & self.writable[at];
        }
        self.clamp();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u16, Vec<u8>),
    Event(u8),
    Reset,
    /// Sets how many vectors the host has when MSI is turned on the next time.
    Host(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(0x31), Just(0x51), any::<u8>()];
    let data = prop::collection::vec(byte, 0..9);
    // Message Control, the ends of the mask bits of both sizes, and anything.
    let offset = prop_oneof![
        0u16..28,
        prop::sample::select(&[2u16, 2, 12, 15, 16, 19][..])
    ];
    let step = prop_oneof![
        6 => (offset, data).prop_map(|(offset, data)| Step::Write(offset, data)),
        3 => (0u8..32).prop_map(Step::Event),
        2 => prop::sample::select(&[0u8, 1, 31][..]).prop_map(Step::Event),
        1 => Just(Step::Reset),
        1 => prop_oneof![Just(32), 0u8..33].prop_map(Step::Host),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn as_the_book_has_it(address_64: bool, masking: bool, log in 0u8..6, steps in steps()) {
        let c = cap(address_64, masking, 1 << log);
        let (mut msi, mut model) = (Msi::new(c), Model::new(&c, log));
        let (mut host, mut vectors) = (Host::default(), 32);
        for step in steps {
            match step {
                Step::Write(offset, data) => {
                    model.write(offset.into(), &data);
                    msi.capability_write(offset, &data);
                    host.follow(&mut msi, vectors, |limit| match limit {
                        0 => model.bytes[2] &= !1,
                        _ => model.limit(&c, limit),
                    });
                }
                Step::Event(vector) => {
                    model.event(vector);
                    host.event(vector);
                }
                Step::Reset => {
                    msi.reset();
                    host.follow(&mut msi, vectors, |_| {});
                    let sent = std::mem::take(&mut model.sent);
                    model = Model { sent, ..Model::new(&c, log) };
                }
                Step::Host(count) => vectors = count,
            }
            prop_assert_eq!(&host.sent, &model.sent);
            prop_assert_eq!(msi.is_enabled(), model.enabled());
            prop_assert_eq!(msi.vectors(), 1u8 << model.log());
            prop_assert_eq!(msi.masked() >> (msi.vectors() - 1) >> 1, 0);

            let mut expected = model.bytes;
            if let Some(at) = model.mask {
                expected[at + 4..at + 8].copy_from_slice(&model.pending.to_le_bytes());
            }
            let mut read = [0; 40];
            msi.capability_read(0, &mut read, &|v| host.gathered >> v & 1 == 1);
            prop_assert_eq!(read, expected);
        }
    }
}
