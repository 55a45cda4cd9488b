//! The ioctls of VFIO and iommufd that this crate makes itself, one function for each.
//!
//! Every `unsafe` of opening, of region and interrupt set-up and of resets is in this file. A
//! function fills the structure, makes the call and returns the answer or the errno. The caller
//! decides when to make the call, and documents the reason. The structures are those of
//! `include/uapi/linux/vfio.h` and `include/uapi/linux/iommufd.h`. vfio-ioctls makes the calls that
//! open an iommufd or a container, and the calls that map memory.

use std::ffi::{CStr, c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use iommufd_bindings::iommufd::{
    IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_TYPE, iommu_ioas_iova_ranges, iommu_iova_range,
};
use iommufd_ioctls::IommuFd;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DEVICE_BIND_FLAG_TOKEN, VFIO_DEVICE_FEATURE_DMA_BUF, VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_PROBE, VFIO_TYPE, vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd,
    vfio_device_detach_iommufd_pt, vfio_device_info, vfio_group_status, vfio_iommu_type1_info,
    vfio_irq_info, vfio_irq_set, vfio_region_info,
};
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_GET_API_VERSION, VFIO_TYPE.into(), VFIO_BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, VFIO_TYPE.into(), VFIO_BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, VFIO_TYPE.into(), VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_UNSET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 5);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, VFIO_TYPE.into(), VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE.into(), VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, VFIO_TYPE.into(), VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE.into(), VFIO_BASE + 11);
// The kernel uses the numbers 12 and 13 twice: for a device and for a container.
ioctl_io_nr!(
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_TYPE.into(),
    VFIO_BASE + 12
);
ioctl_io_nr!(VFIO_IOMMU_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 12);
ioctl_io_nr!(VFIO_DEVICE_PCI_HOT_RESET, VFIO_TYPE.into(), VFIO_BASE + 13);
ioctl_io_nr!(VFIO_DEVICE_FEATURE, VFIO_TYPE.into(), VFIO_BASE + 17);
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, VFIO_TYPE.into(), VFIO_BASE + 18);
ioctl_io_nr!(
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_TYPE.into(),
    VFIO_BASE + 19
);
ioctl_io_nr!(
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    VFIO_TYPE.into(),
    VFIO_BASE + 20
);
ioctl_io_nr!(
    IOMMU_IOAS_IOVA_RANGES,
    IOMMUFD_TYPE as u32,
    IOMMUFD_CMD_IOAS_IOVA_RANGES
);

/// The most bytes of capabilities that are read; the kernel's chains are a few hundred bytes long.
const MAX_INFO: usize = 64 << 10;
/// The most ranges of I/O addresses that are read; no IOMMU has as many.
const MAX_RANGES: usize = 256;

fn check(ret: c_int) -> io::Result<c_int> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

// Groups and containers.

/// Returns the version of VFIO's interface.
pub(super) fn api_version(container: &File) -> io::Result<c_int> {
    // SAFETY: the ioctl takes no argument.
    check(unsafe { ioctl(container, VFIO_GET_API_VERSION()) })
}

/// Returns 1 if the kernel has an IOMMU driver, `VFIO_TYPE1v2_IOMMU` for example, else 0.
pub(super) fn check_extension(container: &File, driver: u32) -> io::Result<c_int> {
    // SAFETY: the argument is a number.
    check(unsafe { ioctl_with_val(container, VFIO_CHECK_EXTENSION(), driver.into()) })
}

/// Returns the group's flags, `VFIO_GROUP_FLAGS_*`.
pub(super) fn group_status(group: &File) -> io::Result<u32> {
    let mut status = vfio_group_status {
        argsz: size_of::<vfio_group_status>() as u32,
        ..Default::default()
    };
    // SAFETY: the kernel fills a structure of the size that argsz says, which lives for the call.
    check(unsafe { ioctl_with_mut_ref(group, VFIO_GROUP_GET_STATUS(), &mut status) })?;
    Ok(status.flags)
}

/// Makes a group a member of a container.
pub(super) fn set_container(group: &File, container: &(impl AsRawFd + ?Sized)) -> io::Result<()> {
    let container: c_int = container.as_raw_fd();
    // SAFETY: the kernel reads one descriptor number, which lives for the call.
    check(unsafe { ioctl_with_ref(group, VFIO_GROUP_SET_CONTAINER(), &container) }).map(|_| ())
}

/// Takes a group out of its container.
pub(super) fn unset_container(group: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    check(unsafe { ioctl(group, VFIO_GROUP_UNSET_CONTAINER()) }).map(|_| ())
}

/// Gives a container its IOMMU driver, `VFIO_TYPE1v2_IOMMU` for example.
pub(super) fn set_iommu(container: &(impl AsRawFd + ?Sized), driver: u32) -> io::Result<()> {
    let container = container.as_raw_fd();
    // SAFETY: the argument is a number.
    check(unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), driver.into()) }).map(|_| ())
}

/// Returns a `struct vfio_iommu_type1_info` with its capabilities.
pub(super) fn iommu_info(container: &(impl AsRawFd + ?Sized)) -> io::Result<Vec<u8>> {
    let header = size_of::<vfio_iommu_type1_info>();
    ask(&container.as_raw_fd(), VFIO_IOMMU_GET_INFO(), header, 0)
}

/// Opens a device of a group.
pub(super) fn device_of_group(group: &File, name: &CStr) -> io::Result<File> {
    // SAFETY: the kernel reads a string that ends in a null byte and lives for the call.
    let ret = unsafe { ioctl_with_ptr(group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
    let descriptor = check(ret)?;
    // SAFETY: the kernel has just made the descriptor, and nothing else knows its number.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

// iommufd.

/// Borrows the descriptor of an iommufd: iommufd-ioctls gives only its number.
pub(super) fn borrow(iommufd: &IommuFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the iommufd, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(iommufd.as_raw_fd()) }
}

/// Binds a device's file to an iommufd, which opens the device. A VF token is passed as its bytes.
pub(super) fn bind(
    device: &File,
    iommufd: &impl AsRawFd,
    token: Option<&[u8; 16]>,
) -> io::Result<()> {
    let mut bind = vfio_device_bind_iommufd {
        argsz: size_of::<vfio_device_bind_iommufd>() as u32,
        flags: token.map_or(0, |_| VFIO_DEVICE_BIND_FLAG_TOKEN),
        iommufd: iommufd.as_raw_fd(),
        token_uuid_ptr: token.map_or(0, |token| token.as_ptr() as u64),
        ..Default::default()
    };
    // SAFETY: the kernel reads and fills a structure of the size that argsz says, and reads 16
    // bytes of the token; both live for the call.
    check(unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) }).map(|_| ())
}

/// Whether [`bind`] takes a VF token for a device that is not bound yet. The call names a token at
/// an address that no process has, so it binds nothing: a kernel that looks for the token answers
/// EFAULT. A kernel that does not know the flag, as before Linux 6.17, and a driver without tokens
/// answer EINVAL (drivers/vfio/device_cdev.c, `vfio_df_check_token`).
pub(super) fn bind_takes_token(device: &File) -> io::Result<bool> {
    let mut bind = vfio_device_bind_iommufd {
        argsz: size_of::<vfio_device_bind_iommufd>() as u32,
        flags: VFIO_DEVICE_BIND_FLAG_TOKEN,
        // Looked at after the token.
        iommufd: device.as_raw_fd(),
        token_uuid_ptr: u64::MAX - 0xfff,
        ..Default::default()
    };
    // SAFETY: the kernel reads a structure of the size that argsz says, which lives for the call.
    // It reads the token by a checked copy, which fails at that address.
    let ret = unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) };
    match check(ret) {
        Err(e) if e.raw_os_error() == Some(libc::EFAULT) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        other => other.map(|_| false),
    }
}

/// Attaches a bound device to an I/O address space of its iommufd.
pub(super) fn attach(device: &File, ioas: u32) -> io::Result<()> {
    let mut attach = vfio_device_attach_iommufd_pt {
        argsz: size_of::<vfio_device_attach_iommufd_pt>() as u32,
        pt_id: ioas,
        ..Default::default()
    };
    // SAFETY: the kernel reads and fills a structure of the size that argsz says, which lives for
    // the call.
    let ret = unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) };
    check(ret).map(|_| ())
}

/// Detaches a device from its I/O address space.
pub(super) fn detach(device: &File) -> io::Result<()> {
    let detach = vfio_device_detach_iommufd_pt {
        argsz: size_of::<vfio_device_detach_iommufd_pt>() as u32,
        ..Default::default()
    };
    // SAFETY: the kernel reads a structure of the size that argsz says, which lives for the call.
    check(unsafe { ioctl_with_ref(device, VFIO_DEVICE_DETACH_IOMMUFD_PT(), &detach) }).map(|_| ())
}

/// Returns the I/O addresses that an address space can map, as `(first, last)`.
pub(super) fn ioas_ranges(iommufd: &impl AsRawFd, ioas: u32) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = [iommu_iova_range::default(); MAX_RANGES];
    let mut argument = iommu_ioas_iova_ranges {
        size: size_of::<iommu_ioas_iova_ranges>() as u32,
        ioas_id: ioas,
        num_iovas: MAX_RANGES as u32,
        allowed_iovas: ranges.as_mut_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the argument and the array that it points at live for the call, and the array has as
    // many elements as the argument says.
    check(unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_IOVA_RANGES(), &mut argument) })?;
    let found = ranges.iter().take(argument.num_iovas as usize);
    Ok(found.map(|range| (range.start, range.last)).collect())
}

// Devices.

/// The capability of AtomicOps has 16 bytes. With this many, one call is enough.
const DEVICE_CAPABILITIES: usize = 64;

/// Returns a `struct vfio_device_info` with its capabilities.
pub(super) fn device_info(device: &File) -> io::Result<Vec<u8>> {
    let size = size_of::<vfio_device_info>() + DEVICE_CAPABILITIES;
    ask(device, VFIO_DEVICE_GET_INFO(), size, 0)
}

/// Returns a `struct vfio_region_info` with its capabilities.
pub(super) fn region_info(device: &File, index: u32) -> io::Result<Vec<u8>> {
    let header = size_of::<vfio_region_info>();
    ask(device, VFIO_DEVICE_GET_REGION_INFO(), header, index)
}

/// Asks for a kind of interrupt, by its index: the number of vectors, and flags.
pub(super) fn irq_info(device: &File, index: u32) -> io::Result<vfio_irq_info> {
    let mut info = vfio_irq_info {
        argsz: size_of::<vfio_irq_info>() as u32,
        index,
        ..Default::default()
    };
    // SAFETY: the kernel fills a structure of the size that argsz says, which lives for the call.
    check(unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
    Ok(info)
}

/// Sets interrupts up; a positive answer is the number of vectors that the host can give.
pub(super) fn set_irqs(
    device: &File,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    descriptors: &[c_int],
) -> io::Result<u32> {
    let argsz = (size_of::<vfio_irq_set>() + size_of_val(descriptors)) as u32;
    let mut words = vec![argsz, flags, index, start, count];
    words.extend(descriptors.iter().map(|fd| *fd as u32));
    // SAFETY: the words are a `struct vfio_irq_set` (five u32) with descriptors behind it, of the
    // length that argsz says; the kernel only reads them, and no more than argsz.
    let ret = unsafe { ioctl_with_ptr(device, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) };
    check(ret).map(|available| available as u32)
}

/// The words of a `struct vfio_device_feature`: its size and flags.
const FEATURE: usize = 2;
/// The words of a `struct vfio_device_feature_dma_buf` with one range: index of the region, flags
/// for the descriptor, flags, number of ranges, and offset and length of the range, two words each.
const DMA_BUF: usize = 8;

/// Asks whether the device can export BARs as dma-bufs.
pub(super) fn can_export(device: &File) -> io::Result<()> {
    let flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
    let mut words = [size_of::<[u32; FEATURE]>() as u32, flags];
    // SAFETY: the words are a `struct vfio_device_feature` of the size that its argsz says, which
    // lives for the call. A probe reads and writes nothing else.
    let ret = unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_FEATURE(), &mut words) };
    check(ret).map(|_| ())
}

/// Exports a part of a BAR as a dma-buf.
pub(super) fn export(device: &File, bar: u32, offset: u64, size: u64) -> io::Result<OwnedFd> {
    let argsz = size_of::<[u32; FEATURE + DMA_BUF]>() as u32;
    let flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
    let open = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    let [low, high] = [|wide: u64| wide as u32, |wide: u64| (wide >> 32) as u32];
    let mut words: [u32; FEATURE + DMA_BUF] = [
        argsz,
        flags,
        bar,
        open,
        0,
        1,
        low(offset),
        high(offset),
        low(size),
        high(size),
    ];
    // SAFETY: the words are the two structures above, of the size that argsz says, and live for the
    // call.
    let ret = unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_FEATURE(), &mut words) };
    let descriptor = check(ret)?;
    // SAFETY: the kernel has just made the descriptor, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Resets a function by itself.
pub(super) fn reset(device: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    check(unsafe { ioctl(device, VFIO_DEVICE_RESET()) }).map(|_| ())
}

/// Fills a `struct vfio_pci_hot_reset_info`: argsz, flags, count and an entry for each function. On
/// ENOSPC the count is filled too.
pub(super) fn hot_reset_info(device: &File, words: &mut [u32]) -> io::Result<()> {
    set_argsz(words)?;
    let request = VFIO_DEVICE_GET_PCI_HOT_RESET_INFO();
    // SAFETY: the buffer is as long as its argsz says, and lives for the call.
    check(unsafe { ioctl_with_mut_ptr(device, request, words.as_mut_ptr()) }).map(|_| ())
}

/// Resets a slot or bus. The argument is a `struct vfio_pci_hot_reset`: argsz, flags, count and as
/// many descriptors of groups.
pub(super) fn hot_reset(device: &File, words: &mut [u32]) -> io::Result<()> {
    set_argsz(words)?;
    // SAFETY: the kernel only reads the buffer, which is as long as its argsz says.
    check(unsafe { ioctl_with_ptr(device, VFIO_DEVICE_PCI_HOT_RESET(), words.as_ptr()) })
        .map(|_| ())
}

/// Writes the length of a hot reset's structure into the first word.
fn set_argsz(words: &mut [u32]) -> io::Result<()> {
    const HEADER: usize = 3;
    let bytes = size_of_val(words) as u32;
    match words.first_chunk_mut::<HEADER>() {
        Some([argsz, ..]) => *argsz = bytes,
        None => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
    Ok(())
}

/// Asks for a structure that a chain of capabilities may follow: first with a `size` of at least
/// the structure's, then with the size that the kernel has returned in argsz. The structure's third
/// word is an `index` or unused.
fn ask(device: &impl AsRawFd, request: c_ulong, size: usize, index: u32) -> io::Result<Vec<u8>> {
    let mut bytes = size.next_multiple_of(8);
    loop {
        // Made of u64, because the kernel's structures have that alignment.
        let mut buffer = vec![0u64; bytes / 8];
        if let Some([argsz, third, ..]) = buffer.first_chunk_mut::<2>() {
            (*argsz, *third) = (bytes as u64, index.into());
        }
        // SAFETY: the buffer is aligned and as long as its argsz says, and lives for the call.
        check(unsafe { ioctl_with_mut_ptr(device, request, buffer.as_mut_ptr()) })?;
        let needed = buffer.first().map_or(0, |first| *first as u32 as usize);
        if needed <= bytes {
            return Ok(buffer.iter().flat_map(|word| word.to_le_bytes()).collect());
        }
        if needed > MAX_INFO {
            return Err(io::Error::other(format!("the answer has {needed} bytes")));
        }
        bytes = needed.next_multiple_of(8);
    }
}

/// For tests: makes a KVM device out of a file.
#[cfg(test)]
pub(super) fn as_kvm_device(file: File) -> kvm_ioctls::DeviceFd {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is open, and nothing else owns it.
    unsafe { kvm_ioctls::DeviceFd::from_raw_fd(file.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is no device of VFIO answers ENOTTY.
    #[test]
    fn every_call_returns_the_errno() {
        let file = File::open("/dev/null").unwrap();
        let words = &mut [0; 3];
        let outcomes = [
            api_version(&file).map(|_| ()),
            check_extension(&file, 3).map(|_| ()),
            group_status(&file).map(|_| ()),
            set_container(&file, &file),
            unset_container(&file),
            set_iommu(&file, 3),
            iommu_info(&file).map(|_| ()),
            device_of_group(&file, c"0000:01:00.0").map(|_| ()),
            bind(&file, &file, None),
            bind(&file, &file, Some(&[0; 16])),
            bind_takes_token(&file).map(|_| ()),
            attach(&file, 1),
            detach(&file),
            ioas_ranges(&file, 1).map(|_| ()),
            device_info(&file).map(|_| ()),
            region_info(&file, 0).map(|_| ()),
            irq_info(&file, 0).map(|_| ()),
            set_irqs(&file, 0, 0, 0, 1, &[-1]).map(|_| ()),
            can_export(&file),
            export(&file, 0, 0, 4096).map(|_| ()),
            reset(&file),
            hot_reset_info(&file, words),
            hot_reset(&file, words),
        ];
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let errno = outcome.unwrap_err().raw_os_error();
            assert_eq!(errno, Some(libc::ENOTTY), "call {index}");
        }
        assert_eq!(words[0], 12);
        let errno = hot_reset(&file, &mut [0; 2]).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::EINVAL));
    }
}
