//! Any accesses and events against a plain model of the specification: the same registers and
//! pending bits, and the same messages sent in the same order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use crate::msix::tests::msix;

/// A host's set-up: an eventfd for each vector that has been live, in which events gather while the
/// vector is masked. For any other vector the device itself keeps events pending.
#[derive(Debug, Default)]
struct Host {
    enabled: bool,
    /// The vectors with an eventfd, each with its message; `None` while the vector is masked.
    vectors: BTreeMap<u16, Option<Message>>,
    waiting: BTreeSet<u16>,
    sent: Vec<(u16, Message)>,
}

impl Host {
    /// Follows the registers after a write that touched the entries `written`. The host has only
    /// the vectors below `limit`: it refuses others in the registers, and in the model.
    fn follow(&mut self, m: &mut Msix, written: Range<u16>, limit: u16, model: &mut Model) {
        if m.is_enabled() && !self.enabled && limit == 0 {
            m.refuse_enable();
            model.control &= 0x7fff;
        }
        self.enabled = m.is_enabled();
        if !self.enabled {
            self.vectors.clear();
            self.waiting.clear();
            return;
        }
        for vector in written {
            let known = self.vectors.contains_key(&vector);
            match m.live(vector) {
                Some(_) if vector >= limit && !known => {
                    m.refuse_vector(vector);
                    model.table[usize::from(vector) * 16 + 12] |= 1;
                }
                None if !known => {}
                message => {
                    self.vectors.insert(vector, message);
                    if message.is_some() && self.waiting.remove(&vector) {
                        self.event(vector);
                    }
                }
            }
        }
    }

    fn event(&mut self, vector: u16) {
        match self.vectors.get(&vector).copied().flatten() {
            Some(message) => self.sent.push((vector, message)),
            None if self.enabled => drop(self.waiting.insert(vector)),
            None => {}
        }
    }
}

/// Table, pending bits and Message Control by the specification (PCI 3.0, 6.8.2).
struct Model {
    control: u16,
    table: Vec<u8>,
    pending: BTreeSet<u16>,
    sent: Vec<(u16, Message)>,
}

impl Model {
    fn new(vectors: u16) -> Self {
        let masked = [&[0; 12][..], &[1, 0, 0, 0]].concat();
        Self {
            control: vectors - 1,
            table: masked.repeat(vectors.into()),
            pending: BTreeSet::new(),
            sent: Vec::new(),
        }
    }

    fn enabled(&self) -> bool {
        self.control & 0x8000 != 0
    }

    fn masked(&self, vector: u16) -> bool {
        self.control & 0x4000 != 0 || self.table[usize::from(vector) * 16 + 12] & 1 == 1
    }

    fn event(&mut self, vector: u16) {
        if !self.enabled() {
            return;
        }
        if self.masked(vector) {
            self.pending.insert(vector);
            return;
        }
        let entry = &self.table[usize::from(vector) * 16..];
        let message = Message {
            address: u64::from_le_bytes(entry[..8].try_into().unwrap()),
            data: u32::from_le_bytes(entry[8..12].try_into().unwrap()),
        };
        self.sent.push((vector, message));
    }

    /// Pending messages of unmasked vectors are sent, in the order of the vectors.
    fn deliver(&mut self) {
        for vector in std::mem::take(&mut self.pending) {
            self.event(vector);
        }
    }

    fn write_control(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if at == 3 {
                self.control = self.control & 0x3fff | u16::from(byte & 0xc0) << 8;
            }
        }
    }

    fn write_table(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let writable = match at % 16 {
                // Messages are dword-aligned; Vector Control has only the mask bit.
                0 => 0xfc,
                12 => 0x01,
                13..16 => 0,
                _ => 0xff,
            };
            if let Some(to) = self.table.get_mut(at) {
                *to = byte & writable;
            }
        }
    }

    /// Any byte of the capability but for ID and link.
    fn capability(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[2..4].copy_from_slice(&self.control.to_le_bytes());
        // Table and pending bits: BAR 4, at 0x2000 and 0x3000.
        bytes[4..8].copy_from_slice(&0x2004u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&0x3004u32.to_le_bytes());
        bytes
    }

    fn pending_byte(&self, at: u64) -> u8 {
        if at >= (self.table.len() as u64 / 16).div_ceil(64) * 8 {
            return 0xff;
        }
        let first = at as u16 * 8;
        (0..8).fold(0, |byte, bit| {
            byte | u8::from(self.pending.contains(&(first + bit))) << bit
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Control(u16, Vec<u8>),
    Table(u64, Vec<u8>),
    Event(u16),
    Reset,
    /// From now on the host has only the vectors below this number.
    Host(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let byte = prop_oneof![Just(0u8), Just(0x80), Just(0xc0), any::<u8>()];
    let data = prop::collection::vec(byte, 0..9);
    // The enable bit is in a single byte, so some writes must hit that byte.
    let control = prop_oneof![0u16..14, Just(2), Just(3)];
    let table =
        prop_oneof![3 => 0u64..80, 1 => 1020u64..1100, 1 => (0u64..70).prop_map(|v| v * 16 + 12)];
    let vector = prop_oneof![3 => 0u16..5, 1 => 0u16..70];
    let step = prop_oneof![
        4 => (control, data.clone()).prop_map(|(offset, data)| Step::Control(offset, data)),
        8 => (table, data).prop_map(|(offset, data)| Step::Table(offset, data)),
        6 => vector.clone().prop_map(Step::Event),
        1 => Just(Step::Reset),
        1 => vector.prop_map(Step::Host),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn as_the_book_has_it(
        vectors in prop_oneof![1u16..6, 60u16..70],
        steps in steps(),
        probe in 0u64..1200,
    ) {
        let (mut m, mut model) = (msix(vectors), Model::new(vectors));
        let (mut host, mut limit) = (Host::default(), u16::MAX);
        for step in steps {
            let written = match step {
                Step::Control(offset, data) => {
                    model.write_control(offset.into(), &data);
                    m.control_write(offset, &data);
                    0..vectors
                }
                Step::Table(offset, data) => {
                    model.write_table(offset as usize, &data);
                    let written = m.table_write(offset, &data);
                    prop_assert!(written.len() <= data.len().div_ceil(16) + 1);
                    written
                }
                Step::Event(vector) if vector < vectors => {
                    model.event(vector);
                    host.event(vector);
                    0..0
                }
                Step::Event(_) => 0..0,
                Step::Reset => {
                    let sent = std::mem::take(&mut model.sent);
                    model = Model { sent, ..Model::new(vectors) };
                    m.reset();
                    0..vectors
                }
                Step::Host(first) => {
                    limit = first;
                    0..0
                }
            };
            host.follow(&mut m, written, limit, &mut model);
            model.deliver();

            prop_assert_eq!(&host.sent, &model.sent);
            prop_assert_eq!((m.is_enabled(), host.enabled), (model.enabled(), model.enabled()));
            // A host that compares only the written entries misses no change.
            for vector in 0..vectors {
                let live = m.live(vector);
                prop_assert_eq!(live, host.vectors.get(&vector).copied().flatten());
                prop_assert_eq!(live.is_some(), model.enabled() && !model.masked(vector));
            }

            let mut read = [0; 14];
            m.capability_read(0, &mut read);
            prop_assert_eq!(&read[..12], &model.capability());
            let mut table = vec![0; model.table.len()];
            m.table_read(0, &mut table);
            prop_assert!(table == model.table);
            for len in [1, 2, 4, 8] {
                let mut read = vec![0; len];
                m.table_read(probe, &mut read);
                let from = model.table.get(probe as usize..).unwrap_or_default();
                let expected = from.iter().chain([&0xff; 8]).take(len);
                prop_assert!(read.iter().eq(expected), "{:x?}", read);
                let at = probe % 24;
                m.pba_read(at, &mut read, &|v| host.waiting.contains(&v));
                let expected = (at..).take(len).map(|at| model.pending_byte(at));
                prop_assert_eq!(read, expected.collect::<Vec<_>>());
            }
        }
    }
}
