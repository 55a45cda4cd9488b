//! Opens a PCI device by VFIO in a guest without an IOMMU. In the kernel's no-IOMMU mode,
//! interrupts and registers work as usual, and DMA addresses are physical addresses.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lab::error::Context;
use lab::{Error, Result};
use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, VFIO_TYPE.into(), VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE.into(), VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);

/// A kind of interrupt. The values are VFIO's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    /// The interrupt pin.
    Intx = VFIO_PCI_INTX_IRQ_INDEX as isize,
    /// MSI.
    Msi = VFIO_PCI_MSI_IRQ_INDEX as isize,
}

/// An opened device.
pub struct Device {
    device: File,
    // The device works only while its group is in a container and both are open.
    _group: File,
    _container: File,
}

impl Device {
    /// Opens a device that is bound to vfio-pci.
    pub fn open(bdf: &str) -> Result<Self> {
        let group = fs::read_link(format!("/sys/bus/pci/devices/{bdf}/iommu_group"))
            .context(format!("find the group of {bdf}"))?;
        let group = group.file_name().unwrap_or_default().to_string_lossy();
        let container = open(Path::new("/dev/vfio/vfio"))?;
        let group = open(Path::new(&format!("/dev/vfio/noiommu-{group}")))?;
        // SAFETY: the kernel reads one int, which lives for the call.
        let ret =
            unsafe { ioctl_with_ref(&group, VFIO_GROUP_SET_CONTAINER(), &container.as_raw_fd()) };
        done(ret, "put the group into the container")?;
        // SAFETY: the argument is a number, and the kernel accesses no memory.
        let ret =
            unsafe { ioctl_with_val(&container, VFIO_SET_IOMMU(), VFIO_NOIOMMU_IOMMU.into()) };
        done(ret, "go without an IOMMU")?;
        let name = std::ffi::CString::new(bdf).context("name the device")?;
        // SAFETY: the kernel reads a string that ends with a zero and lives for the call.
        let ret = unsafe { ioctl_with_ptr(&group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
        let fd = done(ret, "open the device")?;
        // SAFETY: the kernel has just opened the descriptor, and nothing else owns it.
        let device = unsafe { File::from_raw_fd(fd) };
        Ok(Self {
            device,
            _group: group,
            _container: container,
        })
    }

    /// The offset of a region in the device's file.
    pub fn region(&self, index: u32) -> Result<u64> {
        let mut info = vfio_region_info {
            argsz: size_of::<vfio_region_info>() as u32,
            index,
            ..Default::default()
        };
        // SAFETY: the kernel writes a `struct vfio_region_info`, whose size is in argsz.
        let ret =
            unsafe { ioctl_with_mut_ref(&self.device, VFIO_DEVICE_GET_REGION_INFO(), &mut info) };
        done(ret, "find a region")?;
        Ok(info.offset)
    }

    /// Reads a register of 2 or 4 bytes.
    pub fn read<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.device
            .read_exact_at(&mut bytes, at)
            .context(format!("read at {at:#x} of the device's file"))?;
        Ok(bytes)
    }

    /// Writes a register.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.device
            .write_all_at(bytes, at)
            .context(format!("write at {at:#x} of the device's file"))
    }

    /// Lets an interrupt signal an eventfd.
    pub fn connect(&self, irq: Irq, event: &EventFd) -> Result<()> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(irq, flags, &[event.as_raw_fd()])
    }

    /// Turns this kind of interrupt off.
    pub fn disconnect(&self, irq: Irq) -> Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(irq, flags, &[])
    }

    /// Unmasks the pin, which the kernel masks at each interrupt.
    pub fn unmask(&self) -> Result<()> {
        const ONE: [u32; 5] = [
            20,
            VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
            VFIO_PCI_INTX_IRQ_INDEX,
            0,
            1,
        ];
        self.set(&ONE)
    }

    fn set_irqs(&self, irq: Irq, flags: u32, fds: &[i32]) -> Result<()> {
        let count = fds.len() as u32;
        let mut words = vec![20 + 4 * count, flags, irq as u32, 0, count];
        words.extend(fds.iter().map(|fd| *fd as u32));
        self.set(&words)
    }

    fn set(&self, words: &[u32]) -> Result<()> {
        // SAFETY: the kernel reads a `struct vfio_irq_set` of five words and its data. The first
        // word is the size of all.
        let ret = unsafe { ioctl_with_ptr(&self.device, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) };
        done(ret, "set interrupts").map(|_| ())
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(format!("open {}", path.display()))
}

fn done(ret: i32, what: &str) -> Result<i32> {
    if ret < 0 {
        Err(Error::failed(format!(
            "cannot {what}: {}",
            std::io::Error::last_os_error()
        )))
    } else {
        Ok(ret)
    }
}
