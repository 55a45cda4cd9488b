//! RAM made, mapped for a device's DMA, and unmapped, by the calls of VFIO's type 1 IOMMU
//! (Documentation/driver-api/vfio.rst) and nothing else.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::ptr;
use std::thread;
use std::time::Instant;

use lab::error::Context;
use lab::{Error, Result};
use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, VFIO_TYPE.into(), VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, VFIO_TYPE.into(), VFIO_BASE + 14);

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Where a device sees the RAM: a place that suits pages of every size.
const IOVA: u64 = 4 << 30;

/// Measures once, and says milliseconds.
pub fn run(bdf: &str, mib: usize, pages: &str, threads: usize) -> Result<()> {
    let size = mib * MIB;
    let container = open("/dev/vfio/vfio")?;
    let group = fs::read_link(format!("/sys/bus/pci/devices/{bdf}/iommu_group"))
        .context(format!("find the group of {bdf}"))?;
    let group = group.file_name().unwrap_or_default().to_string_lossy();
    let group = open(&format!("/dev/vfio/{group}"))?;
    // SAFETY: the kernel reads one int.
    let ret = unsafe { ioctl_with_ref(&group, VFIO_GROUP_SET_CONTAINER(), &container.as_raw_fd()) };
    done(ret, "put the group into the container")?;
    // SAFETY: the argument is a number.
    let ret = unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into()) };
    done(ret, "choose the kind of IOMMU")?;

    let started = Instant::now();
    let ram = allocate(size, pages)?;
    prefault(ram, size, threads)?;
    let made = started.elapsed();

    let started = Instant::now();
    let map = vfio_iommu_type1_dma_map {
        argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: ram as u64,
        iova: IOVA,
        size: size as u64,
    };
    // SAFETY: a whole structure whose length is in it; the RAM stays until the process ends.
    let ret = unsafe { ioctl_with_ref(&container, VFIO_IOMMU_MAP_DMA(), &map) };
    done(ret, "map for DMA")?;
    let mapped = started.elapsed();

    let started = Instant::now();
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
        iova: IOVA,
        size: size as u64,
        ..Default::default()
    };
    // SAFETY: the same.
    let ret = unsafe { ioctl_with_mut_ref(&container, VFIO_IOMMU_UNMAP_DMA(), &mut unmap) };
    done(ret, "unmap")?;
    let unmapped = started.elapsed();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    println!(
        "made={:.3} mapped={:.3} unmapped={:.3}",
        ms(made),
        ms(mapped),
        ms(unmapped)
    );
    Ok(())
}

/// Address space for RAM of a kind of page, at a place that suits pages of every size.
fn allocate(size: usize, pages: &str) -> Result<*mut libc::c_void> {
    let (flags, advice) = match pages {
        "4K" => (0, Some(libc::MADV_NOHUGEPAGE)),
        "thp" => (0, Some(libc::MADV_HUGEPAGE)),
        "2M" => (libc::MAP_HUGETLB | libc::MAP_HUGE_2MB, None),
        "1G" => (libc::MAP_HUGETLB | libc::MAP_HUGE_1GB, None),
        _ => return Err(Error::failed(format!("no such pages: {pages}"))),
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let wide = unsafe { libc::mmap(ptr::null_mut(), size + GIB, protection, private, -1, 0) };
    if wide == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("find address space");
    }
    let at = (wide as usize).next_multiple_of(GIB) as *mut libc::c_void;
    // SAFETY: over a part of the mapping just made, which nobody uses.
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
    Ok(ram)
}

/// Zeroes all pages, each thread its share.
fn prefault(ram: *mut libc::c_void, size: usize, threads: usize) -> Result<()> {
    let share = (size / threads.max(1)).next_multiple_of(2 * MIB);
    let start = ram as usize;
    thread::scope(|scope| {
        let workers: Vec<_> = (start..start + size)
            .step_by(share)
            .map(|at| {
                let length = share.min(start + size - at);
                scope.spawn(move || {
                    // SAFETY: a part of the mapping, in which nobody has anything yet.
                    let ret = unsafe {
                        libc::madvise(at as *mut libc::c_void, length, libc::MADV_POPULATE_WRITE)
                    };
                    done(ret, "fill RAM")
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(Error::failed("a thread died")))
        })
    })
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(format!("open {path}"))
}

fn done(ret: i32, what: &str) -> Result<()> {
    if ret < 0 {
        Err(std::io::Error::last_os_error()).context(what)
    } else {
        Ok(())
    }
}
