//! What is read of a vCPU's mapping at one stop of a thread: the head of the page that KVM shares
//! with the thread, the data of ports, and the head of the ring, in one call.

use crate::decode::value::Memory;
use crate::guest::access::MOST_DATA;
use crate::guest::ring;
use crate::guest::run_page::HEAD;
use crate::sys::memory::Remote;

/// Where in a vCPU's mapping the data of a port is (KVM_PIO_PAGE_OFFSET), and the ring
/// (KVM_COALESCED_MMIO_PAGE_OFFSET), on x86.
pub const DATA: u64 = 4096;
pub const RING: u64 = 2 * 4096;

/// Parts of a mapping.
#[derive(Clone, Debug)]
pub struct Page {
    tid: i32,
    at: u64,
    read: usize,
    head: [u8; HEAD],
    data: [u8; MOST_DATA],
    ring: [u8; ring::HEADER],
}

impl Page {
    /// Reads the mapping at this address and of so many bytes.
    pub fn read(tid: i32, (at, len): (u64, u64)) -> Self {
        let mut page = Self {
            tid,
            at,
            read: 0,
            head: [0; HEAD],
            data: [0; MOST_DATA],
            ring: [0; ring::HEADER],
        };
        let parts = &mut [
            (at, &mut page.head[..]),
            (at.wrapping_add(DATA), &mut page.data[..]),
            (at.wrapping_add(RING), &mut page.ring[..]),
        ];
        let count = if len >= RING + 4096 { 3 } else { 2 };
        page.read = Remote(tid).read_parts(&mut parts[..count]);
        page
    }

    /// Its address.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The head, if it could be read.
    pub fn head(&self) -> Option<&[u8; HEAD]> {
        (self.read >= HEAD).then_some(&self.head)
    }

    /// The data of ports. Zeros if it could not be read.
    pub fn data(&self) -> &[u8; MOST_DATA] {
        &self.data
    }

    /// The head of the ring, if there is one.
    pub fn ring(&self) -> Option<[u8; ring::HEADER]> {
        (self.read == HEAD + MOST_DATA + ring::HEADER).then_some(self.ring)
    }

    /// The bytes at an offset that the page names.
    pub fn answer(&self, offset: u64) -> [u8; MOST_DATA] {
        let mut data = self.data;
        if offset != DATA {
            data = [0; MOST_DATA];
            Remote(self.tid).read(self.at.wrapping_add(offset), &mut data);
        }
        data
    }
}
