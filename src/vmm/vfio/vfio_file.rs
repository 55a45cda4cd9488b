//! A device behind VFIO's file, whichever way the file was opened.
//!
//! No other file reads or writes a device's descriptor. vfio-ioctls has the same calls, but its
//! region accesses, its reset and its SET_IRQS swallow errors. So this file makes the calls itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pci::atomic_ops::AtomicOps;
use pci::link::Link;
use tracing::{debug, trace};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_VGA_REGION_INDEX,
};

use crate::hostinfo::resets;
use crate::hostinfo::sysfs::Sysfs;
use crate::log::degraded::{self, Code};
use crate::vfio::device::{CONFIG_REGION, Device, DeviceError, Irq, IrqInfo, RegionInfo};
use crate::vfio::hot_reset::Scope;
use crate::vfio::opener::{DeviceFile, Opener, Waiting};
use crate::vfio::{hardware_config, info, uapi};

/// An open device. Dropping it closes the device and undoes the steps of opening.
pub trait OpenDevice: Send + Sync {
    /// The device's file.
    fn file(&self) -> &DeviceFile;

    /// The open file of an IOMMU group, by its number: a hot reset proves by this file that the
    /// guest owns the group. `None` if the guest has no device of that group, or has opened it by
    /// iommufd.
    fn group_file(&self, group: u32) -> Option<Arc<File>>;
}

/// A device, with the facts that VFIO reports of it.
pub struct VfioFile {
    name: String,
    /// By VFIO's index.
    regions: Vec<RegionInfo>,
    /// By VFIO's index.
    irqs: Vec<IrqInfo>,
    resettable: bool,
    atomic_ops: AtomicOps,
    /// Whether BARs can be exported as dma-bufs.
    exports: bool,
    by_power: bool,
    /// Whether a call for the device sleeps in the kernel. Other calls would sleep too.
    lost: AtomicBool,
    device: Box<dyn OpenDevice>,
}

impl VfioFile {
    /// Asks an open device for its regions and interrupts. `dir` is the device's directory in
    /// sysfs.
    ///
    /// # Errors
    /// When the device does not answer or is not a PCI device.
    pub fn new(name: String, dir: &Path, device: Box<dyn OpenDevice>) -> Result<Self, DeviceError> {
        let file = device.file();
        let raw = uapi::device_info(file).map_err(|source| DeviceError::Call {
            device: name.clone(),
            call: "VFIO_DEVICE_GET_INFO",
            source,
        })?;
        let info = info::device(&raw);
        let whole = info.regions > CONFIG_REGION && info.irqs > VFIO_PCI_MSIX_IRQ_INDEX;
        if !info.is_pci || !whole {
            return Err(DeviceError::NotPci { device: name });
        }
        let regions = (0..info.regions).map(|index| region(&name, file, index));
        let irqs = (0..info.irqs).map(|index| irq(&name, file, index));
        Ok(Self {
            regions: regions.collect::<Result<_, _>>()?,
            irqs: irqs.collect::<Result<_, _>>()?,
            resettable: info.can_reset,
            atomic_ops: info.atomic_ops,
            // Asked of this device: the kernel, its configuration and the device's driver decide.
            exports: uapi::can_export(file).is_ok(),
            by_power: resets::by_power_only(dir),
            lost: AtomicBool::new(false),
            name,
            device,
        })
    }

    /// The device's file, for a call.
    ///
    /// # Errors
    /// ENODEV if an earlier call sleeps.
    fn file(&self) -> io::Result<&DeviceFile> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            false => Ok(self.device.file()),
        }
    }

    /// Makes a call that may sleep.
    fn by_opener<R>(
        &self,
        call: impl FnOnce(&Opener, &str, &DeviceFile) -> io::Result<R>,
    ) -> io::Result<R> {
        let file = self.file()?;
        let outcome = call(file.opener(), &self.name, file);
        if outcome
            .as_ref()
            .is_err_and(|e| Waiting::behind(e).is_some())
        {
            self.lost.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn fail(&self, call: &'static str, source: io::Error) -> DeviceError {
        DeviceError::Call {
            device: self.name.clone(),
            call,
            source,
        }
    }

    /// The file offset of an access. An access beyond the region is refused, because it would reach
    /// the next region's bytes.
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

    /// Calls VFIO_DEVICE_SET_IRQS for `count` vectors; `fds` has no elements or `count` elements.
    fn set_irqs(
        &self,
        irq: Irq,
        flags: u32,
        start: u32,
        count: u32,
        fds: &[i32],
    ) -> Result<(), DeviceError> {
        const CALL: &str = "VFIO_DEVICE_SET_IRQS";
        debug!(device = self.name, ?irq, flags, start, count, "{CALL}");
        let set = |file: &DeviceFile| uapi::set_irqs(file, flags, irq.index(), start, count, fds);
        match self.file().and_then(set) {
            Ok(0) => Ok(()),
            Ok(available) => Err(DeviceError::FewerVectors {
                device: self.name.clone(),
                asked: start + count,
                available,
            }),
            Err(e) => Err(self.fail(CALL, e)),
        }
    }
}

/// A region; empty if the device does not have the region, which EINVAL means. Every device has a
/// configuration space.
///
/// # Errors
/// Any other errno: the guest would get a device without one of its BARs.
fn region(name: &str, file: &File, index: u32) -> Result<RegionInfo, DeviceError> {
    match uapi::region_info(file, index) {
        Ok(raw) => Ok(info::region(&raw)),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) && index != CONFIG_REGION => {
            // Only a display has the legacy VGA region.
            if index != VFIO_PCI_VGA_REGION_INDEX {
                let loss = Code::RegionMissing.loss(
                    format!("the guest does not get region {index}"),
                    format!("VFIO_DEVICE_GET_REGION_INFO: {e}"),
                );
                degraded::tell(loss.of(name).hint("use a newer kernel on the host"));
            }
            Ok(RegionInfo::default())
        }
        Err(source) => Err(DeviceError::Call {
            device: name.into(),
            call: "VFIO_DEVICE_GET_REGION_INFO",
            source,
        }),
    }
}

/// A kind of interrupt; without vectors if the device does not have the kind, which EINVAL means:
/// the error interrupt of a conventional PCI device, for example.
///
/// # Errors
/// Any other errno: the guest would get a device without its interrupts.
fn irq(name: &str, file: &File, index: u32) -> Result<IrqInfo, DeviceError> {
    match uapi::irq_info(file, index) {
        Ok(info) => Ok(IrqInfo {
            count: info.count,
            resizable: info.flags & VFIO_IRQ_INFO_NORESIZE == 0,
        }),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            debug!("{name} does not tell of interrupts of kind {index}: {e}");
            Ok(IrqInfo::default())
        }
        Err(source) => Err(DeviceError::Call {
            device: name.into(),
            call: "VFIO_DEVICE_GET_IRQ_INFO",
            source,
        }),
    }
}

impl Device for VfioFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn hardware_config(&self) -> Vec<u8> {
        let read = |path: &Path| self.by_opener(|opener, name, _| opener.read(name, path));
        hardware_config::read(&Sysfs::default(), &self.name, read)
    }

    fn region(&self, index: u32) -> RegionInfo {
        self.regions
            .get(index as usize)
            .cloned()
            .unwrap_or_default()
    }

    fn irq(&self, irq: Irq) -> Option<IrqInfo> {
        let info = self.irqs.get(irq.index() as usize)?;
        (info.count > 0).then_some(*info)
    }

    fn can_reset(&self) -> bool {
        self.resettable
    }

    fn resets_by_power(&self) -> bool {
        self.by_power
    }

    fn atomic_ops(&self) -> AtomicOps {
        self.atomic_ops
    }

    fn link(&self, config: &[u8]) -> Option<Link> {
        let name = self.name.parse().ok()?;
        let read = |path: &Path| self.by_opener(|opener, name, _| opener.read(name, path));
        Sysfs::default().express(name, config, &read).link
    }

    fn map_fd(&self) -> RawFd {
        self.device.file().as_raw_fd()
    }

    fn can_export(&self) -> bool {
        self.exports
    }

    fn export(&self, bar: u32, offset: u64, size: u64) -> io::Result<OwnedFd> {
        debug!(device = self.name, bar, offset, size, "export");
        uapi::export(self.file()?, bar, offset, size)
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
            .and_then(|at| self.file()?.read_exact_at(data, at))
            .map_err(|e| self.fail("a region read", e))
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        trace!(device = self.name, region, offset, ?data, "region write");
        self.locate(region, offset, data.len())
            .and_then(|at| self.file()?.write_all_at(data, at))
            .map_err(|e| self.fail("a region write", e))
    }

    fn write_slowly(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        trace!(device = self.name, region, offset, ?data, "slow write");
        self.locate(region, offset, data.len())
            .and_then(|at| self.by_opener(|opener, name, file| opener.write(name, file, at, data)))
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
        self.by_opener(|opener, name, file| opener.reset(name, file))
            .map_err(|e| self.fail("VFIO_DEVICE_RESET", e))
    }

    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError> {
        let scope = self
            .file()
            .and_then(|file| Scope::of(file))
            .map_err(|e| self.fail("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", e))?;
        Ok(scope.functions().map(|bdf| bdf.to_string()).collect())
    }

    fn hot_reset(&self) -> Result<(), DeviceError> {
        debug!(device = self.name, "VFIO_DEVICE_PCI_HOT_RESET");
        let reset = |opener: &Opener, name: &str, file: &DeviceFile| {
            let groups = Scope::of(file)?.group_files(|group| self.device.group_file(group))?;
            opener.hot_reset(name, file, &groups)
        };
        self.by_opener(reset)
            .map_err(|e| self.fail("VFIO_DEVICE_PCI_HOT_RESET", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_the_kernel_does_not_report_is_told() {
        let name = "0000:46:00.0";
        // This driver answers calls that it does not know by EINVAL, as VFIO does.
        let file = File::open("/dev/urandom").unwrap();
        assert_eq!(region(name, &file, 3).unwrap(), RegionInfo::default());
        let missing = region(name, &file, VFIO_PCI_VGA_REGION_INDEX);
        assert_eq!(missing.unwrap(), RegionInfo::default());
        let told = degraded::list().into_iter();
        let told = told.filter(|loss| loss.device.as_deref() == Some(name));
        let told: Vec<_> = told.map(|loss| (loss.code, loss.what)).collect();
        let region = "the guest does not get region 3".to_owned();
        assert_eq!(told, [(Code::RegionMissing, region)]);
    }
}
