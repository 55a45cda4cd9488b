//! A function's interrupts: the pin, MSI and MSI-X, of which one at a time is on.
//!
//! VFIO refuses to turn one kind on while another is (drivers/vfio/pci/vfio_pci_intrs.c), and a
//! device that leaves MSI or MSI-X is back at its pin (PCI Express 6.0, 6.1.4.3 and 7.5.1.1.3).

mod intx;
mod msi;
mod msix;

use std::sync::{Arc, Weak};

use super::device::{DeviceError, SharedDevice};
use crate::interrupt::service::Service;
use crate::interrupt::{InterruptError, Router};
use crate::pci::lanes;
use crate::pci::msi::{Msi, MsiCapability, MsiEffect};
use crate::pci::msix::{CAPABILITY_SIZE, Msix, MsixCapability, MsixEffect};
use intx::Intx;
use msi::MsiVectors;
use msix::MsixVectors;

/// Why a vector could not be wired.
#[derive(Debug, thiserror::Error)]
enum VectorError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
}

/// The interrupts of one function.
pub struct Interrupts {
    intx: Option<Intx>,
    msi: Option<(Msi, MsiVectors)>,
    msix: Option<(Msix, MsixVectors)>,
}

impl Interrupts {
    /// What the configuration space `image` says and VFIO offers. All of it is off.
    pub fn new(image: &[u8], device: SharedDevice, router: Arc<Router>) -> Self {
        let msi = MsiCapability::parse(image)
            .map(Msi::new)
            .zip(MsiVectors::new(Arc::clone(&device), Arc::clone(&router)));
        let msix = MsixCapability::parse(image)
            .map(Msix::new)
            .zip(MsixVectors::new(device, router));
        Self {
            intx: None,
            msi,
            msix,
        }
    }

    /// Wires the pin to a GSI, once the function has its slot; tells whether that worked.
    pub fn connect_pin(
        &mut self,
        device: SharedDevice,
        router: Arc<Router>,
        gsi: u32,
        service: Weak<Service>,
    ) -> bool {
        self.intx = Intx::new(device, router, service, gsi);
        self.power_on();
        self.intx.as_ref().is_some_and(Intx::is_wired)
    }

    /// All off for ever, and the device let go of.
    pub fn release(&mut self) {
        *self = Self {
            intx: None,
            msi: None,
            msix: None,
        };
    }

    /// Where the MSI-X table is.
    pub fn msix(&self) -> Option<&MsixCapability> {
        self.msix.as_ref().map(|(msix, _)| msix.capability())
    }

    /// After a reset: interrupts come by the pin.
    pub fn power_on(&mut self) {
        if let Some(intx) = &mut self.intx {
            intx.enable();
        }
    }

    /// All off, as before a reset.
    pub fn silence(&mut self) {
        if let Some((msix, vectors)) = &mut self.msix {
            let _ = msix.reset();
            vectors.disable();
        }
        if let Some((msi, vectors)) = &mut self.msi {
            let _ = msi.reset();
            vectors.disable();
        }
        if let Some(intx) = &mut self.intx {
            intx.disable();
        }
    }

    /// Lays what the two capabilities hold now over a read of configuration space.
    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        if let Some((msi, vectors)) = &self.msi {
            let (at, size) = (msi.capability().offset, msi.capability().size());
            overlay(at, size, offset, data, |first, part| {
                msi.capability_read(first, part, &|v| vectors.pending(v));
            });
        }
        if let Some((msix, _)) = &self.msix {
            overlay(
                msix.capability().offset,
                CAPABILITY_SIZE,
                offset,
                data,
                |first, part| {
                    msix.capability_read(first, part);
                },
            );
        }
    }

    /// A guest's write of configuration space; what of it is a capability's is done.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) {
        let mut msi_effects = Vec::new();
        if let Some((msi, _)) = &mut self.msi
            && let Some((first, part)) = part_of(
                msi.capability().offset,
                msi.capability().size(),
                offset,
                data,
            )
        {
            msi_effects = msi.capability_write(first, part);
        }
        self.apply_msi(&msi_effects);
        let mut msix_effects = Vec::new();
        if let Some((msix, _)) = &mut self.msix
            && let Some((first, part)) =
                part_of(msix.capability().offset, CAPABILITY_SIZE, offset, data)
        {
            msix_effects = msix.control_write(first, part);
        }
        self.apply_msix(&msix_effects);
    }

    /// A read of the MSI-X table.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, _)) = &self.msix {
            msix.table_read(offset, data);
        }
    }

    /// A write to the MSI-X table.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        if let Some((msix, _)) = &mut self.msix {
            let effects = msix.table_write(offset, data);
            self.apply_msix(&effects);
        }
    }

    /// A read of the MSI-X pending bits.
    pub fn pending_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, vectors)) = &self.msix {
            msix.pba_read(offset, data, &|v| vectors.pending(v));
        }
    }

    fn apply_msi(&mut self, effects: &[MsiEffect]) {
        if effects
            .iter()
            .any(|e| matches!(e, MsiEffect::Enable { .. }))
        {
            self.leave_pin();
        }
        if let Some((_, vectors)) = &mut self.msi {
            vectors.apply(effects);
        }
        if effects.last() == Some(&MsiEffect::Disable) {
            self.return_to_pin();
        }
    }

    fn apply_msix(&mut self, effects: &[MsixEffect]) {
        if effects.contains(&MsixEffect::Enable) {
            self.leave_pin();
            // Both at once is undefined (7.7.2.2); MSI-X wins.
            if let Some((_, vectors)) = &mut self.msi {
                vectors.disable();
            }
        }
        if let Some((_, vectors)) = &mut self.msix {
            vectors.apply(effects);
        }
        if effects.contains(&MsixEffect::Disable) {
            self.return_to_pin();
        }
    }

    fn leave_pin(&mut self) {
        if let Some(intx) = &mut self.intx {
            intx.disable();
        }
    }

    fn return_to_pin(&mut self) {
        let msi = self.msi.as_ref().is_some_and(|(msi, _)| msi.is_enabled());
        let msix = self
            .msix
            .as_ref()
            .is_some_and(|(msix, _)| msix.is_enabled());
        if !msi && !msix {
            self.power_on();
        }
    }
}

/// The part of an access at `offset` that lies in `[start, start + size)`: where it begins inside,
/// and its bytes.
fn part_of(start: u16, size: u16, offset: u16, data: &[u8]) -> Option<(u16, &[u8])> {
    if !lanes::touches(offset.into(), data.len(), start.into(), size.into()) {
        return None;
    }
    let skip = usize::from(start.saturating_sub(offset));
    let first = offset.saturating_sub(start);
    let room = usize::from(size - first);
    let part = data.get(skip..)?;
    Some((first, part.get(..room).unwrap_or(part)))
}

/// The same for a read: `fill` sees where the part begins, and the part.
fn overlay(start: u16, size: u16, offset: u16, data: &mut [u8], fill: impl Fn(u16, &mut [u8])) {
    let Some((first, part)) = part_of(start, size, offset, data) else {
        return;
    };
    let (skip, len) = (usize::from(start.saturating_sub(offset)), part.len());
    if let Some(part) = data.get_mut(skip..skip + len) {
        fill(first, part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_access() {
        let data = [0, 1, 2, 3];
        assert_eq!(part_of(0x50, 12, 0x50, &data), Some((0, &data[..])));
        assert_eq!(part_of(0x50, 12, 0x4e, &data), Some((0, &data[2..])));
        assert_eq!(part_of(0x50, 12, 0x5a, &data), Some((10, &data[..2])));
        assert_eq!(part_of(0x50, 12, 0x5c, &data), None);
        assert_eq!(part_of(0x50, 12, 0x4c, &data), None);
        assert_eq!(part_of(0x50, 2, 0x4f, &data), Some((0, &data[1..3])));
    }
}
