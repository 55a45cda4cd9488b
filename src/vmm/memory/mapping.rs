//! Host mappings that own their addresses: guest RAM and BARs.
//!
//! A leaf file with the `mmap` calls. A mapping is a reserved range with an alignment, because KVM
//! and the IOMMU can use 2 MiB and 1 GiB pages only if host and guest address agree modulo the page
//! size. Parts of a mapping may be replaced by the pages of a file.

use std::os::fd::RawFd;
use std::{io, ptr};

/// The host's page size in bytes, and the granule of KVM's memory slots on x86.
pub const PAGE_SIZE: u64 = 4096;

/// A range of this process's addresses, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    address: u64,
    size: u64,
}

impl Mapping {
    /// Reserves `size` bytes at a multiple of `align`, a power of two. The range cannot be accessed
    /// yet.
    ///
    /// # Errors
    /// The errno of mmap(2); EINVAL if `size` is zero or not a multiple of the page size, or
    /// `align` not a power of two.
    pub fn reserve(size: u64, align: u64) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let align = align.max(PAGE_SIZE);
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) || !align.is_power_of_two() {
            return Err(invalid());
        }
        let span = size.checked_add(align).ok_or_else(invalid)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new private mapping at an address of the kernel's choice changes no other
        // mapping.
        let raw = unsafe {
            libc::mmap(
                ptr::null_mut(),
                span as usize,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let raw = raw as u64;
        let address = raw.next_multiple_of(align);
        let (head, tail) = (address - raw, raw + span - address - size);
        unmap(raw, head);
        unmap(address + size, tail);
        Ok(Self { address, size })
    }

    /// Makes zeroed anonymous memory at a multiple of `align`. The kernel allocates a page when it
    /// is touched.
    ///
    /// # Errors
    /// The errno of mmap(2) or mprotect(2).
    pub fn anonymous(size: u64, align: u64) -> io::Result<Self> {
        let mapping = Self::reserve(size, align)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is a new mapping that no other code knows of yet.
        let ret = unsafe { libc::mprotect(mapping.pointer(), size as usize, prot) };
        if ret != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// Makes zeroed memory out of huge pages from the host's reserve, each of 2 to the power of
    /// `shift` bytes, at a multiple of `align`. The host reserves the pages now, and zeroes a page
    /// when it is touched.
    ///
    /// # Errors
    /// The errno of mmap(2): ENOMEM if too few pages are free, EINVAL if the host has no such
    /// pages.
    pub fn huge(size: u64, align: u64, shift: u32) -> io::Result<Self> {
        let mapping = Self::reserve(size, align)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_FIXED;
        let flags = flags | (shift << libc::MAP_HUGE_SHIFT) as i32;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is a new mapping that no other code knows of yet, so MAP_FIXED
        // replaces nothing else.
        let ret = unsafe { libc::mmap(mapping.pointer(), size as usize, prot, flags, -1, 0) };
        if ret == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// Replaces `[offset, offset + size)` of the mapping by the pages of `fd` from `fd_offset`,
    /// shared.
    ///
    /// # Errors
    /// EINVAL if the range is not inside of the mapping, otherwise the errno of mmap(2). The range
    /// stays reserved.
    pub fn map_file(
        &self,
        offset: u64,
        size: u64,
        fd: RawFd,
        fd_offset: u64,
        writable: bool,
    ) -> io::Result<()> {
        if size == 0 || offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let write = if writable { libc::PROT_WRITE } else { 0 };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the range lies inside of this mapping (checked above), so MAP_FIXED replaces
        // nothing else; no Rust reference into the range exists.
        let ret = unsafe {
            libc::mmap(
                (self.address + offset) as *mut libc::c_void,
                size as usize,
                libc::PROT_READ | write,
                flags,
                fd,
                fd_offset as libc::off_t,
            )
        };
        if ret == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Asks the kernel for transparent huge pages from `offset` to the end if `wanted`, or else for
    /// small pages. A kernel without transparent huge pages ignores this.
    pub fn advise_huge_pages(&self, offset: u64, wanted: bool) {
        let Some(size @ 1..) = self.size.checked_sub(offset) else {
            return;
        };
        let advice = if wanted {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        let address = (self.address + offset) as *mut libc::c_void;
        // SAFETY: the range is a part of our own, and advice on it changes no contents.
        unsafe { libc::madvise(address, size as usize, advice) };
    }

    /// Excludes the range from core dumps, which would otherwise contain the guest's memory.
    pub fn exclude_from_dumps(&self) {
        // SAFETY: advice on our own range changes no contents.
        unsafe { libc::madvise(self.pointer(), self.size as usize, libc::MADV_DONTDUMP) };
    }

    /// Makes the pages of `[offset, offset + size)` present and writable (MADV_POPULATE_WRITE,
    /// Linux 5.14; older kernels fault them in when the IOMMU pins them).
    ///
    /// # Errors
    /// The errno of madvise(2), such as ENOMEM when the host has no pages left.
    pub fn populate(&self, offset: u64, size: u64) -> io::Result<()> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let start = (self.address + offset) as *mut libc::c_void;
        // SAFETY: populating our own range changes no contents.
        let ret = unsafe { libc::madvise(start, size as usize, libc::MADV_POPULATE_WRITE) };
        let error = io::Error::last_os_error();
        if ret == 0 || error.raw_os_error() == Some(libc::EINVAL) {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// The host address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn pointer(&self) -> *mut libc::c_void {
        self.address as *mut libc::c_void
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        unmap(self.address, self.size);
    }
}

fn unmap(address: u64, size: u64) {
    if size > 0 {
        // SAFETY: called only for ranges that `reserve` made and that nothing refers to any more.
        unsafe { libc::munmap(address as *mut libc::c_void, size as usize) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    #[test]
    fn alignment_is_kept() {
        for align in [PAGE_SIZE, 2 << 20, 1 << 30] {
            let m = Mapping::anonymous(4 << 20, align).unwrap();
            assert_eq!(m.address() % align, 0);
            m.populate(0, m.size()).unwrap();
        }
    }

    #[test]
    fn impossible_mappings_are_refused() {
        assert!(Mapping::reserve(0, PAGE_SIZE).is_err());
        assert!(Mapping::reserve(100, PAGE_SIZE).is_err());
        assert!(Mapping::reserve(PAGE_SIZE, 3 << 20).is_err());
        assert!(Mapping::reserve(u64::MAX - 4095, 1 << 30).is_err());
    }

    #[test]
    fn pages_of_a_file_stay_inside() {
        let file = TempFile::new().unwrap().into_file();
        file.set_len(0x2000).unwrap();
        let m = Mapping::reserve(0x2000, PAGE_SIZE).unwrap();
        m.map_file(0x1000, 0x1000, file.as_raw_fd(), 0x1000, true)
            .unwrap();
        assert!(
            m.map_file(0x1000, 0x2000, file.as_raw_fd(), 0, true)
                .is_err()
        );
        assert!(
            m.map_file(0x2000, 0x1000, file.as_raw_fd(), 0, true)
                .is_err()
        );
        assert!(m.populate(0x1000, 0x2000).is_err());
    }
}
