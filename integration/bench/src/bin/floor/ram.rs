//! RAM: anonymous memory whose pages are made present before the guest uses them.

use std::ptr;
use std::thread;

use bench::error::{Context, Error, Result};

pub const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Anonymous RAM, mapped until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    /// The address of the first byte.
    pub start: *mut u8,
    /// The size in bytes.
    pub size: usize,
}

impl Ram {
    /// Reserves address space for RAM with pages of this kind. The start is aligned for pages of
    /// every size.
    pub fn new(size: usize, pages: &str) -> Result<Self> {
        let (flags, advice) = match pages {
            "4K" => (0, Some(libc::MADV_NOHUGEPAGE)),
            "thp" => (0, Some(libc::MADV_HUGEPAGE)),
            "2M" => (libc::MAP_HUGETLB | libc::MAP_HUGE_2MB, None),
            "1G" => (libc::MAP_HUGETLB | libc::MAP_HUGE_1GB, None),
            _ => return Err(Error::new(format!("no such pages: {pages}"))),
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let wide = unsafe { libc::mmap(ptr::null_mut(), size + GIB, protection, private, -1, 0) };
        if wide == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("find address space");
        }
        let at = (wide as usize).next_multiple_of(GIB) as *mut libc::c_void;
        // SAFETY: over a part of the mapping just made, which nothing uses.
        let ram = unsafe {
            libc::mmap(
                at,
                size,
                protection,
                private | flags | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if ram == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context(format!("map pages of {pages}"));
        }
        if let Some(advice) = advice {
            // SAFETY: the mapping just made.
            let ret = unsafe { libc::madvise(ram, size, advice) };
            done(ret, "choose the size of pages")?;
        }
        Ok(Self {
            start: ram.cast(),
            size,
        })
    }

    /// Makes all pages present, and so zeroed. Each thread makes the pages of one chunk.
    pub fn populate(&self, threads: usize) -> Result<()> {
        let chunk = (self.size / threads.max(1)).next_multiple_of(2 * MIB);
        let start = self.start as usize;
        let end = start + self.size;
        thread::scope(|scope| {
            let workers: Vec<_> = (start..end)
                .step_by(chunk)
                .map(|at| {
                    let length = chunk.min(end - at);
                    scope.spawn(move || {
                        // SAFETY: a part of the mapping, which holds nothing yet.
                        let ret = unsafe {
                            libc::madvise(
                                at as *mut libc::c_void,
                                length,
                                libc::MADV_POPULATE_WRITE,
                            )
                        };
                        done(ret, "fill RAM")
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(Error::new("a thread died")))
            })
        })
    }
}

/// Makes an error of a negative return value of a system call.
pub fn done(ret: i32, what: &str) -> Result<()> {
    if ret < 0 {
        Err(std::io::Error::last_os_error()).context(what)
    } else {
        Ok(())
    }
}
