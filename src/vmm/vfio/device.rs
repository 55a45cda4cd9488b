//! One device as VFIO shows it: regions, interrupts, reset, with every error returned.
//!
//! The only file that reads or writes a device's file descriptor. vfio-ioctls opens the device and
//! tells its regions and interrupts; its region access, reset and SET_IRQS swallow errors, so those
//! calls are made here. Structures: `include/uapi/linux/vfio.h`.
//!
//! [`Device`] is the seam: a test puts its own device there.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tracing::{debug, trace};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_DEVICE_FLAGS_RESET, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX, VFIO_PCI_ROM_REGION_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, VFIO_TYPE, vfio_device_info,
    vfio_irq_set,
};
use vfio_ioctls::{VfioDevice, VfioRegionInfoCap};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

use crate::vfio::function::hot_reset::Scope;
use crate::vfio::open::open_device::Handle;

ioctl_io_nr!(VFIO_DEVICE_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE.into(), VFIO_BASE + 11);

/// Index of the configuration space region; BARs are 0 to 5.
pub const CONFIG_REGION: u32 = VFIO_PCI_CONFIG_REGION_INDEX;
/// Index of the expansion ROM's region.
pub const ROM_REGION: u32 = VFIO_PCI_ROM_REGION_INDEX;

/// A kind of interrupt or notice of a PCI device (`VFIO_PCI_*_IRQ_INDEX`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Irq {
    /// The interrupt pin.
    Intx,
    /// Message-signalled interrupts.
    Msi,
    /// MSI-X.
    Msix,
    /// The device has failed (an uncorrectable AER error).
    Error,
    /// The host wants the device back.
    Request,
}

impl Irq {
    fn index(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

/// A region of a device: a BAR, the ROM or configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Bytes; 0 when the device has no such region.
    pub size: u64,
    /// It can be read.
    pub read: bool,
    /// It can be written.
    pub write: bool,
    /// What of it can be mapped: `(offset, size)` pieces.
    pub mappable: Vec<(u64, u64)>,
    /// Where its bytes are in the device's file.
    pub file_offset: u64,
}

/// Vectors of one kind of interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// How many the device has.
    pub count: u32,
    /// Whether vectors can be added while others are live (VFIO_IRQ_INFO_NORESIZE is clear; for
    /// MSI-X since Linux 6.5).
    pub resizable: bool,
}

/// A call to a device that failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// An ioctl or a region access.
    #[error("{device}: {call} failed")]
    Call {
        /// The device's address.
        device: String,
        /// What was called.
        call: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// The host has fewer vectors to give than asked for; none was enabled.
    #[error("{device}: the host can give {available} interrupt vectors, not {asked}")]
    FewerVectors {
        /// The device's address.
        device: String,
        /// Vectors asked for.
        asked: u32,
        /// Vectors there are.
        available: u32,
    },
}

/// What a passed-through function needs of its device.
pub trait Device: Send + Sync {
    /// The host's name for it, for messages.
    fn name(&self) -> &str;
    /// A region by index; one that the device does not have is empty.
    fn region(&self, index: u32) -> RegionInfo;
    /// Vectors of a kind; `None` when the device has not that kind.
    fn irq(&self, irq: Irq) -> Option<IrqInfo>;
    /// Whether [`Device::reset`] does anything.
    fn can_reset(&self) -> bool;
    /// The file whose pages are the mappable pieces, at [`RegionInfo::file_offset`].
    fn map_fd(&self) -> RawFd;
    /// Reads with the width of `data`.
    ///
    /// # Errors
    /// EIO while memory decode is off, EINVAL beyond the region.
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError>;
    /// Writes with the width of `data`.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError>;
    /// Lets the vectors from `start` signal these eventfds; `None` leaves one without.
    ///
    /// # Errors
    /// [`DeviceError::FewerVectors`] when the host has not so many.
    fn set_events(
        &self,
        irq: Irq,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), DeviceError>;
    /// Holds a kind of interrupt back, in the host.
    ///
    /// # Errors
    /// The errno; only INTx can be masked.
    fn mask(&self, irq: Irq) -> Result<(), DeviceError>;
    /// Ends [`Device::mask`], or VFIO's own masking of INTx after it has fired.
    ///
    /// # Errors
    /// The errno.
    fn unmask(&self, irq: Irq) -> Result<(), DeviceError>;
    /// Lets an eventfd unmask INTx.
    ///
    /// # Errors
    /// The errno; some drivers have no such thing.
    fn set_unmask_event(&self, event: BorrowedFd<'_>) -> Result<(), DeviceError>;
    /// Turns a kind of interrupt off.
    ///
    /// # Errors
    /// The errno.
    fn disable(&self, irq: Irq) -> Result<(), DeviceError>;
    /// Resets the function (FLR or what else the kernel finds).
    ///
    /// # Errors
    /// The errno; ENOTTY when the device has no reset.
    fn reset(&self) -> Result<(), DeviceError>;
    /// The names of all functions that [`Device::hot_reset`] would reset, its own among them.
    ///
    /// # Errors
    /// The errno; ENODEV when neither its slot nor its bus can be reset.
    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError>;
    /// Resets the function's slot or bus, and so every function there.
    ///
    /// # Errors
    /// The errno; EINVAL when one of the functions is not this process's.
    fn hot_reset(&self) -> Result<(), DeviceError>;
}

/// A device behind a VFIO file descriptor.
pub struct VfioFile {
    name: String,
    regions: Vec<RegionInfo>,
    resettable: bool,
    /// A second descriptor for positioned reads and writes; it is closed before `inner`, which leaves
    /// the group.
    file: File,
    inner: Handle,
}

impl VfioFile {
    /// Wraps a device that vfio-ioctls has opened.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated or the device does not answer.
    pub fn new(name: String, inner: Handle) -> Result<Self, DeviceError> {
        let fail = |call, source| DeviceError::Call {
            device: name.clone(),
            call,
            source,
        };
        // SAFETY: the descriptor belongs to `inner`, which is alive here.
        let fd = unsafe { BorrowedFd::borrow_raw(inner.as_raw_fd()) };
        let file = fd.try_clone_to_owned().map_err(|e| fail("dup", e))?.into();
        let mut info = vfio_device_info {
            argsz: size_of::<vfio_device_info>() as u32,
            ..Default::default()
        };
        // SAFETY: the kernel fills a structure of the size it is told, which lives for the call.
        if unsafe { ioctl_with_mut_ref(&file, VFIO_DEVICE_GET_INFO(), &mut info) } < 0 {
            return Err(fail("VFIO_DEVICE_GET_INFO", io::Error::last_os_error()));
        }
        let regions = (0..=CONFIG_REGION)
            .map(|i| region_info(&inner, i))
            .collect();
        let resettable = info.flags & VFIO_DEVICE_FLAGS_RESET != 0;
        Ok(Self {
            name,
            regions,
            resettable,
            file,
            inner,
        })
    }

    fn fail(&self, call: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Call {
            device: self.name.clone(),
            call,
            source,
        }
    }

    /// Where an access lies in the file; accesses beyond the region are refused here, because the
    /// next region's bytes would be there.
    fn locate(&self, region: u32, offset: u64, len: usize) -> io::Result<u64> {
        let info = self.regions.get(region as usize);
        info.filter(|r| {
            offset
                .checked_add(len as u64)
                .is_some_and(|end| end <= r.size)
        })
        .map(|r| r.file_offset + offset)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// VFIO_DEVICE_SET_IRQS for `count` vectors; `fds` are empty or as many.
    fn set_irqs(
        &self,
        irq: Irq,
        flags: u32,
        start: u32,
        count: u32,
        fds: &[i32],
    ) -> Result<(), DeviceError> {
        const HEADER: usize = size_of::<vfio_irq_set>();
        let argsz = (HEADER + size_of_val(fds)) as u32;
        let mut words = vec![argsz, flags, irq.index(), start, count];
        words.extend(fds.iter().map(|fd| *fd as u32));
        debug!(
            device = self.name,
            ?irq,
            flags,
            start,
            count,
            "VFIO_DEVICE_SET_IRQS"
        );
        // SAFETY: the words are a `struct vfio_irq_set` (five u32) with `count` descriptors behind
        // it, of the length that argsz says; the kernel only reads them.
        let ret = unsafe { ioctl_with_ptr(&self.file, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) };
        match ret {
            0 => Ok(()),
            available if available > 0 => Err(DeviceError::FewerVectors {
                device: self.name.clone(),
                asked: start + count,
                available: available as u32,
            }),
            _ => Err(self.fail("VFIO_DEVICE_SET_IRQS", io::Error::last_os_error())),
        }
    }
}

fn region_info(device: &VfioDevice, index: u32) -> RegionInfo {
    let flags = device.get_region_flags(index);
    let size = device.get_region_size(index);
    let mut mappable = Vec::new();
    if flags & VFIO_REGION_INFO_FLAG_MMAP != 0 {
        let areas = device
            .get_region_caps(index)
            .into_iter()
            .find_map(|cap| match cap {
                VfioRegionInfoCap::SparseMmap(sparse) => Some(sparse.areas),
                _ => None,
            });
        match areas {
            Some(areas) => mappable.extend(areas.iter().map(|a| (a.offset, a.size))),
            None => mappable.push((0, size)),
        }
    }
    RegionInfo {
        size,
        read: flags & VFIO_REGION_INFO_FLAG_READ != 0,
        write: flags & VFIO_REGION_INFO_FLAG_WRITE != 0,
        mappable,
        file_offset: device.get_region_offset(index),
    }
}

impl Device for VfioFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn region(&self, index: u32) -> RegionInfo {
        self.regions
            .get(index as usize)
            .cloned()
            .unwrap_or_default()
    }

    fn irq(&self, irq: Irq) -> Option<IrqInfo> {
        let info = self.inner.get_irq_info(irq.index())?;
        let resizable = info.flags & VFIO_IRQ_INFO_NORESIZE == 0;
        (info.count > 0).then_some(IrqInfo {
            count: info.count,
            resizable,
        })
    }

    fn can_reset(&self) -> bool {
        self.resettable
    }

    fn map_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        trace!(
            device = self.name,
            region,
            offset,
            len = data.len(),
            "region read"
        );
        self.locate(region, offset, data.len())
            .and_then(|at| self.file.read_exact_at(data, at))
            .map_err(|e| self.fail("a region read", e))
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        trace!(device = self.name, region, offset, ?data, "region write");
        self.locate(region, offset, data.len())
            .and_then(|at| self.file.write_all_at(data, at))
            .map_err(|e| self.fail("a region write", e))
    }

    fn set_events(
        &self,
        irq: Irq,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), DeviceError> {
        let fds: Vec<i32> = events
            .iter()
            .map(|e| e.as_ref().map_or(-1, AsRawFd::as_raw_fd))
            .collect();
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(irq, flags, start, fds.len() as u32, &fds)
    }

    fn mask(&self, irq: Irq) -> Result<(), DeviceError> {
        self.set_irqs(
            irq,
            VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK,
            0,
            1,
            &[],
        )
    }

    fn unmask(&self, irq: Irq) -> Result<(), DeviceError> {
        self.set_irqs(
            irq,
            VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
            0,
            1,
            &[],
        )
    }

    fn set_unmask_event(&self, event: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs(Irq::Intx, flags, 0, 1, &[event.as_raw_fd()])
    }

    fn disable(&self, irq: Irq) -> Result<(), DeviceError> {
        self.set_irqs(
            irq,
            VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
            0,
            0,
            &[],
        )
    }

    fn reset(&self) -> Result<(), DeviceError> {
        debug!(device = self.name, "VFIO_DEVICE_RESET");
        // SAFETY: the ioctl takes no argument.
        if unsafe { ioctl(&self.file, VFIO_DEVICE_RESET()) } < 0 {
            return Err(self.fail("VFIO_DEVICE_RESET", io::Error::last_os_error()));
        }
        Ok(())
    }

    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError> {
        let scope = Scope::of(&self.file)
            .map_err(|e| self.fail("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", e))?;
        Ok(scope.functions().map(|bdf| bdf.to_string()).collect())
    }

    fn hot_reset(&self) -> Result<(), DeviceError> {
        debug!(device = self.name, "VFIO_DEVICE_PCI_HOT_RESET");
        Scope::of(&self.file)
            .and_then(|scope| scope.reset(&self.file))
            .map_err(|e| self.fail("VFIO_DEVICE_PCI_HOT_RESET", e))
    }
}

/// A device that several rooms share.
pub type SharedDevice = Arc<dyn Device>;
