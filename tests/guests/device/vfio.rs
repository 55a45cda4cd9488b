//! The made-up device's answers to the calls of VFIO.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use pci::atomic_ops::AtomicOps;
use pci::express;
use pci::link::Link;
use vmm::vfio::device::{CONFIG_REGION, Device, DeviceError, Irq, IrqInfo, ROM_REGION, RegionInfo};

use super::{Call, FakeDevice, SIZES, SPACING};
use crate::backing;
use crate::irqs::{self, Pin, lock};
use crate::reset_kinds::Outcome;

impl Device for FakeDevice {
    fn name(&self) -> &str {
        self.name
    }

    fn can_export(&self) -> bool {
        self.exports
    }

    fn export(&self, bar: u32, offset: u64, size: u64) -> std::io::Result<OwnedFd> {
        self.note(Call::Export(bar, offset, size));
        Ok(backing::file(size)?.into())
    }

    fn region(&self, index: u32) -> RegionInfo {
        let size = match index {
            CONFIG_REGION => self.power_on.len() as u64,
            ROM_REGION if !self.rom => 0,
            _ => SIZES.get(index as usize).copied().unwrap_or(0),
        };
        let mappable = match index {
            0 | 4 if !self.unmapped => vec![(0, size)],
            _ => Vec::new(),
        };
        RegionInfo {
            size,
            read: true,
            write: index != ROM_REGION,
            mappable,
            file_offset: u64::from(index) * SPACING,
        }
    }

    fn irq(&self, irq: Irq) -> Option<IrqInfo> {
        let is_event = matches!(irq, Irq::Error | Irq::Request);
        lock(&self.irqs)
            .info(irq)
            .filter(|_| self.has_events || !is_event)
    }

    fn can_reset(&self) -> bool {
        self.resets.own != Outcome::Absent
    }

    fn resets_by_power(&self) -> bool {
        self.resets.by_power
    }

    fn atomic_ops(&self) -> AtomicOps {
        self.atomic_ops
    }

    fn link(&self, config: &[u8]) -> Option<Link> {
        self.link.or_else(|| express::link(config))
    }

    fn map_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        if self.deaf.load(Ordering::Relaxed) {
            return Err(self.error("a region read", libc::EIO));
        }
        if region == CONFIG_REGION {
            let config = self.config.lock().unwrap();
            let bytes = config.get(offset as usize..).unwrap_or_default();
            let bytes = bytes.get(..data.len());
            data.copy_from_slice(bytes.ok_or_else(|| self.error("a region read", libc::EINVAL))?);
            return Ok(());
        }
        let at = self
            .check(region, offset, data.len())
            .map_err(|e| self.error("a region read", e))?;
        self.file
            .read_exact_at(data, at)
            .map_err(|_| self.error("a region read", libc::EIO))?;
        if region == 0 {
            for (byte, at) in data.iter_mut().zip(offset..) {
                if let Some(at @ 0..8) = at.checked_sub(0x3000) {
                    *byte = lock(&self.irqs).msix.pending_byte(at);
                }
            }
        }
        if (region, offset) == (1, 8) {
            data[0] = self.with_its_pin(|pin| pin.asks() as u8);
        }
        self.note(Call::Read(region, offset, data.len()));
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if region == CONFIG_REGION {
            if let Some(by) = &self.config_writes {
                by(offset, data).map_err(|source| DeviceError::Call {
                    device: self.name.into(),
                    call: "a region write",
                    source,
                })?;
            }
            self.config_write(offset, data)
                .map_err(|e| self.error("a region write", e))?;
            self.note(Call::Config(offset, data.to_vec()));
            return Ok(());
        }
        let at = self
            .check(region, offset, data.len())
            .map_err(|e| self.error("a region write", e))?;
        self.file.write_all_at(data, at).unwrap();
        match (region, offset) {
            (1, 0) => drop(self.raise(data[0].into())),
            (1, 4) => self.with_its_pin(Pin::acknowledge),
            (1, 8) => self.with_its_pin(|pin| pin.ask(data[0].into())),
            _ => {}
        }
        self.note(Call::Write(region, offset, data.to_vec()));
        Ok(())
    }

    fn set_events(
        &self,
        irq: Irq,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), DeviceError> {
        let had = events.iter().map(Option::is_some).collect();
        let failing = self.failing_events.load(Ordering::Relaxed);
        if failing > 0 {
            self.failing_events.store(failing - 1, Ordering::Relaxed);
            return Err(self.error("VFIO_DEVICE_SET_IRQS", libc::EBUSY));
        }
        let events = events.iter().map(|e| {
            let owned = e.map(|fd| fd.try_clone_to_owned().expect("a descriptor"));
            owned.map(File::from)
        });
        lock(&self.irqs)
            .set(irq, start, events.collect())
            .map_err(|e| e.into_device_error(self.name()))?;
        self.note(Call::Events(irq, start, had));
        Ok(())
    }

    fn mask(&self, irq: Irq) -> Result<(), DeviceError> {
        self.with_its_pin(|pin| pin.mask(true));
        self.note(Call::Mask(irq, true));
        Ok(())
    }

    fn unmask(&self, irq: Irq) -> Result<(), DeviceError> {
        self.with_its_pin(|pin| pin.mask(false));
        self.note(Call::Mask(irq, false));
        Ok(())
    }

    fn set_unmask_event(&self, event: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let event = event.try_clone_to_owned().expect("a descriptor");
        irqs::unmask_on(&self.irqs, event.into()).map_err(|e| e.into_device_error(self.name()))
    }

    fn disable(&self, irq: Irq) -> Result<(), DeviceError> {
        let was_on = lock(&self.irqs).disable(irq);
        if !was_on {
            return Err(self.error("VFIO_DEVICE_SET_IRQS", libc::EINVAL));
        }
        self.note(Call::Disable(irq));
        Ok(())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.note(Call::Reset);
        self.resets
            .own
            .check()
            .map_err(|e| self.error("VFIO_DEVICE_RESET", e))?;
        self.power_up();
        if self.resets.own == Outcome::Kills {
            self.die();
        }
        Ok(())
    }

    fn hot_reset_scope(&self) -> Result<Vec<String>, DeviceError> {
        self.resets
            .scope()
            .map_err(|e| self.error("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", e))
    }

    fn hot_reset(&self) -> Result<(), DeviceError> {
        self.note(Call::HotReset);
        self.resets
            .hot
            .check()
            .map_err(|e| self.error("VFIO_DEVICE_PCI_HOT_RESET", e))?;
        self.power_up();
        Ok(())
    }
}
