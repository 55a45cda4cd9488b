//! The ring in which KVM keeps the guest's coalesced writes
//! (Documentation/virt/kvm/api.rst, 4.116 KVM_(UN)REGISTER_COALESCED_MMIO).
//!
//! A leaf file. The page is shared with the kernel, which adds writes at `last`. The VMM removes
//! writes at `first` after it has carried them out. The guest does not see the page.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{kvm_coalesced_mmio, kvm_coalesced_mmio_ring};

use crate::memory::PAGE_SIZE;
use crate::memory::mapping::Mapping;

/// Entries of the ring. One entry stays empty, to tell a full ring from an empty one.
pub const ENTRIES: u32 = ((PAGE_SIZE as usize - size_of::<kvm_coalesced_mmio_ring>())
    / size_of::<kvm_coalesced_mmio>()) as u32;

/// A write of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// A port, or a guest-physical address.
    pub address: u64,
    /// Whether `address` is a port.
    pub port: bool,
    bytes: [u8; 8],
    len: usize,
}

impl Write {
    /// The written bytes, at most 8.
    pub fn data(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// The ring of a VM.
#[derive(Debug)]
pub struct CoalescedRing {
    /// Host address of the ring's page, which `_mapping` keeps mapped.
    address: usize,
    _mapping: Mapping,
}

impl CoalescedRing {
    /// Maps the ring through a vCPU's descriptor. `page` is the ring's page number in that file,
    /// the value of KVM_CAP_COALESCED_MMIO.
    ///
    /// # Errors
    /// The errno of mmap(2).
    pub fn map(vcpu: &impl AsRawFd, page: u32) -> io::Result<Self> {
        let mapping = Mapping::reserve(PAGE_SIZE, PAGE_SIZE)?;
        let offset = u64::from(page) * PAGE_SIZE;
        mapping.map_file(0, PAGE_SIZE, vcpu.as_raw_fd(), offset, true)?;
        Ok(Self {
            address: mapping.address() as usize,
            _mapping: mapping,
        })
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the page is mapped, readable and writable, as long as `self` lives; both indexes
        // are aligned dwords at its start, which kernel and process access as atomics only.
        unsafe { AtomicU32::from_ptr((self.address + offset) as *mut u32) }
    }

    fn first(&self) -> &AtomicU32 {
        self.index(offset_of!(kvm_coalesced_mmio_ring, first))
    }

    fn last(&self) -> &AtomicU32 {
        self.index(offset_of!(kvm_coalesced_mmio_ring, last))
    }

    /// The number of writes in the ring. `last` is read before `first`. In the other order the ring
    /// could look empty after other threads have emptied and refilled it in between. In this order
    /// it can only look too full.
    pub fn len(&self) -> u32 {
        let last = self.last().load(Ordering::Acquire);
        let first = self.first().load(Ordering::Acquire);
        (last + ENTRIES - first) % ENTRIES
    }

    /// Whether no write is in the ring.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The oldest write, which stays in the ring.
    pub fn front(&self) -> Option<Write> {
        let first = self.first().load(Ordering::Acquire);
        if self.is_empty() || first >= ENTRIES {
            return None;
        }
        let at = offset_of!(kvm_coalesced_mmio_ring, coalesced_mmio)
            + first as usize * size_of::<kvm_coalesced_mmio>();
        // SAFETY: the entry lies inside the page (`first` is below ENTRIES); the kernel wrote it
        // before it moved `last` past it, and leaves it alone until `first` is past it too.
        let entry = unsafe { ((self.address + at) as *const kvm_coalesced_mmio).read() };
        // SAFETY: both members of the union are a u32.
        let port = unsafe { entry.__bindgen_anon_1.pio } != 0;
        Some(Write {
            address: entry.phys_addr,
            port,
            bytes: entry.data,
            len: entry.len as usize,
        })
    }

    /// Removes the oldest write, after it has been carried out. Only one thread at a time may call
    /// this.
    pub fn pop(&self) {
        if !self.is_empty() {
            let first = self.first().load(Ordering::Relaxed);
            self.first().store((first + 1) % ENTRIES, Ordering::Release);
        }
    }
}
