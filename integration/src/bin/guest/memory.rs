//! Memory with a known physical address, for the DMA of a device without an IOMMU.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use lab::Result;
use lab::error::Context;

/// The size of a huge page. The kernel does not move such a page, and it is physically contiguous.
const SIZE: usize = 2 << 20;
const PAGE: usize = 4096;
const WORD: usize = size_of::<u32>();

/// A huge page to which a device may write.
pub struct Memory {
    start: *mut libc::c_void,
    physical: u64,
}

impl Memory {
    /// Maps a huge page, and reads its physical address.
    pub fn new() -> Result<Self> {
        fs::write("/proc/sys/vm/nr_hugepages", "1").context("reserve a huge page")?;
        // SAFETY: the mapping is new, at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("map a huge page");
        }
        let mut memory = Self { start, physical: 0 };
        // Bits 0 to 54 of an entry are the frame's number
        // (Documentation/admin-guide/mm/pagemap.rst).
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")
            .and_then(|map| map.read_exact_at(&mut entry, (start as usize / PAGE * 8) as u64))
            .context("read the page's address")?;
        memory.physical = (u64::from_le_bytes(entry) & ((1 << 55) - 1)) * PAGE as u64;
        Ok(memory)
    }

    /// The physical address of a byte.
    pub fn physical(&self, at: usize) -> u64 {
        self.physical + at as u64
    }

    /// Writes `count` words from byte `at` on.
    pub fn fill(&self, at: usize, count: usize, value: impl Fn(usize) -> u32) {
        for (n, word) in self.words(at, count).iter().enumerate() {
            word.store(value(n), Ordering::SeqCst);
        }
    }

    /// Counts the words with the right value, among `count` words from byte `at` on.
    pub fn count(&self, at: usize, count: usize, value: impl Fn(usize) -> u32) -> usize {
        let words = self.words(at, count).iter().enumerate();
        words
            .filter(|(n, word)| word.load(Ordering::SeqCst) == value(*n))
            .count()
    }

    fn words(&self, at: usize, count: usize) -> &[AtomicU32] {
        // SAFETY: the mapping has SIZE bytes, is aligned, and lives as long as `self`. A device may
        // write to the mapping at any time, which atomics permit.
        let all =
            unsafe { std::slice::from_raw_parts(self.start.cast::<AtomicU32>(), SIZE / WORD) };
        &all[at / WORD..][..count]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping, and no slice of it outlives `self`.
        unsafe { libc::munmap(self.start, SIZE) };
    }
}
