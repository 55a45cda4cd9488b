//! What is read of a vCPU's mapping: the head of the page that KVM shares with the thread, the data
//! of ports, and the head of the ring. The tracer reads them of a thread that has stopped, in one
//! call, or the kernel has kept them.

use crate::decode::value::Memory;
use crate::guest::access::MOST_DATA;
use crate::guest::ring::{self, ENTRY, HEADER};
use crate::guest::run_page::{DATA, HEAD, RING};
use crate::kernel::kept::Record;
use crate::sys::clock;
use crate::sys::memory::{Blocks, Remote};

/// Parts of a mapping. What could not be read is `None`.
#[derive(Clone, Debug)]
pub struct Page {
    tid: i32,
    at: u64,
    head: Option<[u8; HEAD]>,
    data: Option<[u8; MOST_DATA]>,
    ring: Option<[u8; HEADER]>,
    /// When the reading of the ring began and had ended.
    ring_read: (u64, u64),
    /// What was kept of the ring: the number of the first entry, and entries.
    entries: (u32, Vec<u8>),
    /// Whether the thread has stopped, so that all else can be read.
    stopped: bool,
}

impl Page {
    /// Reads the mapping at this address and of so many bytes, of a thread that has stopped.
    pub fn read(tid: i32, (at, len): (u64, u64)) -> Self {
        let (mut head, mut data, mut ring) = ([0; HEAD], [0; MOST_DATA], [0; HEADER]);
        let parts = &mut [
            (at, &mut head[..]),
            (at.wrapping_add(DATA), &mut data[..]),
            (at.wrapping_add(RING), &mut ring[..]),
        ];
        let count = if len >= RING + 4096 { 3 } else { 2 };
        let read = Remote(tid).read_parts(&mut parts[..count]);
        let now = clock::now();
        Self {
            tid,
            at,
            head: (read >= HEAD).then_some(head),
            data: (read >= HEAD + MOST_DATA).then_some(data),
            ring: (read == HEAD + MOST_DATA + HEADER).then_some(ring),
            ring_read: (now, now),
            entries: (0, Vec::new()),
            stopped: true,
        }
    }

    /// Reads the whole ring of the mapping at this address.
    pub fn ring_of(tid: i32, at: u64) -> Option<Self> {
        let mut bytes = [0; 4096];
        let read = Remote(tid).read(at.wrapping_add(RING), &mut bytes);
        let now = clock::now();
        let (header, entries) = bytes.split_first_chunk()?;
        (read == bytes.len()).then(|| Self {
            tid,
            at,
            head: None,
            data: None,
            ring: Some(*header),
            ring_read: (now, now),
            entries: (0, entries.to_vec()),
            stopped: false,
        })
    }

    /// The same without the ring.
    pub fn without_ring(self) -> Self {
        Self { ring: None, ..self }
    }

    /// What the kernel has kept of the mapping at this address.
    pub fn kept(record: &mut Record, at: u64) -> Self {
        Self {
            tid: record.tid,
            at,
            head: record.head,
            data: record.data,
            ring: record.ring,
            ring_read: (record.since, record.time),
            entries: std::mem::take(&mut record.entries),
            stopped: false,
        }
    }

    /// Its address.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The head.
    pub fn head(&self) -> Option<&[u8; HEAD]> {
        self.head.as_ref()
    }

    /// The head of the ring, if there is one.
    pub fn ring(&self) -> Option<[u8; HEADER]> {
        self.ring
    }

    /// When the reading of the ring began and had ended.
    pub fn ring_read(&self) -> (u64, u64) {
        self.ring_read
    }

    /// An entry of the ring.
    pub fn entry(&self, index: u32, ring: &Blocks) -> Option<[u8; ENTRY]> {
        let (first, entries) = &self.entries;
        let kept = index.checked_sub(*first).and_then(|index| {
            let entries = entries.get(index as usize * ENTRY..)?;
            entries.first_chunk().copied()
        });
        kept.or_else(|| {
            let mut entry = [0; ENTRY];
            let at = self.at.wrapping_add(RING + ring::offset(index));
            (ring.read(at, &mut entry) == ENTRY).then_some(entry)
        })
    }

    /// The data of ports at an offset that the page names.
    pub fn data(&self, offset: u64) -> Option<[u8; MOST_DATA]> {
        if offset == DATA {
            return self.data;
        }
        let mut data = [0; MOST_DATA];
        let at = self.at.wrapping_add(offset);
        let read = self.stopped.then(|| Remote(self.tid).read(at, &mut data));
        (read == Some(MOST_DATA)).then_some(data)
    }
}
