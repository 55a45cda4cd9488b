//! A function's interrupts: the pin, MSI and MSI-X, of which one at a time is on.
//!
//! VFIO refuses to turn one kind on while another is (drivers/vfio/pci/vfio_pci_intrs.c), and a
//! device that leaves MSI or MSI-X is back at its pin (PCI Express 6.0, 6.1.4.3 and 7.5.1.1.3). So
//! the guest's registers say which kind it is (`Interrupts::wanted`), and what was on before is
//! taken down first. What the host refuses is put back in the registers, where the guest can see it.

mod intx;
mod msi;
mod msix;

use std::sync::{Arc, Weak};

use intx::Intx;
use msi::MsiVectors;
use msix::MsixVectors;
use pci::byte_enable;
use pci::msi::{Msi, MsiCapability, MsiEffect};
use pci::msix::{CAPABILITY_SIZE, Msix, MsixCapability, MsixEffect};

use crate::event_thread::EventThread;
use crate::interrupt::{InterruptError, Router};
use crate::vfio::device::{DeviceError, SharedDevice};

/// Why a vector could not be wired.
#[derive(Debug, thiserror::Error)]
enum VectorError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    #[error("the table has vector {vector}, but VFIO knows of {count}")]
    Absent { vector: u16, count: u32 },
}

/// The kind of interrupt that a function uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// None, until the next power-on.
    Off,
    Pin,
    Msi,
    Msix,
}

/// The interrupts of one function.
pub struct Interrupts {
    mode: Mode,
    intx: Option<Intx>,
    msi: Option<(Msi, MsiVectors)>,
    msix: Option<(Msix, MsixVectors)>,
}

impl Interrupts {
    /// What the configuration space `image` says and VFIO offers. No pin is connected.
    pub fn new(image: &[u8], device: SharedDevice, router: Arc<Router>) -> Self {
        let msi = MsiCapability::parse(image)
            .zip(MsiVectors::new(Arc::clone(&device), Arc::clone(&router)))
            .map(|(mut capability, vectors)| {
                capability.max_vectors = vectors.available(capability.max_vectors);
                (Msi::new(capability), vectors)
            });
        let msix = MsixCapability::parse(image)
            .map(Msix::new)
            .zip(MsixVectors::new(device, router));
        Self {
            mode: Mode::Pin,
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
        service: Weak<EventThread>,
    ) -> bool {
        self.intx = Intx::new(device, router, service, gsi);
        self.power_on();
        self.intx.as_ref().is_some_and(Intx::is_wired)
    }

    /// All off for ever, and the device let go of.
    pub fn release(&mut self) {
        *self = Self {
            mode: Mode::Off,
            intx: None,
            msi: None,
            msix: None,
        };
    }

    /// Where the MSI-X table is.
    pub fn msix(&self) -> Option<&MsixCapability> {
        self.msix.as_ref().map(|(msix, _)| msix.capability())
    }

    /// After a reset: interrupts come by the pin, whatever was on.
    pub fn power_on(&mut self) {
        self.silence();
        self.enter(Mode::Pin);
    }

    /// All off until the next power-on, as before a reset.
    pub fn silence(&mut self) {
        // What the registers lose is taken down as a whole.
        if let Some((msix, _)) = &mut self.msix {
            let _ = msix.reset();
        }
        if let Some((msi, _)) = &mut self.msi {
            let _ = msi.reset();
        }
        self.enter(Mode::Off);
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

    /// A guest's write of configuration space; what of it is a capability's is done. Dropped while all
    /// is silent.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) {
        if self.mode == Mode::Off {
            return;
        }
        let (mut msi_effects, mut msix_effects) = (Vec::new(), Vec::new());
        if let Some((msi, _)) = &mut self.msi {
            let (at, size) = (msi.capability().offset, msi.capability().size());
            if let Some((first, part)) = part_of(at, size, offset, data) {
                msi_effects = msi.capability_write(first, part);
            }
        }
        if let Some((msix, _)) = &mut self.msix {
            let at = msix.capability().offset;
            if let Some((first, part)) = part_of(at, CAPABILITY_SIZE, offset, data) {
                msix_effects = msix.control_write(first, part);
            }
        }
        self.follow(&msi_effects, &msix_effects);
    }

    /// A read of the MSI-X table.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, _)) = &self.msix {
            msix.table_read(offset, data);
        }
    }

    /// A write to the MSI-X table; dropped while all is silent.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        if let Some((msix, _)) = &mut self.msix
            && self.mode != Mode::Off
        {
            let effects = msix.table_write(offset, data);
            self.follow(&[], &effects);
        }
    }

    /// Whether interrupts come through, and an MSI-X vector behind the first is in use.
    pub fn uses_spares(&self) -> bool {
        let msix = self.msix.as_ref().filter(|_| self.mode == Mode::Msix);
        msix.is_some_and(|(msix, _)| msix.uses_spares())
    }

    /// A read of the MSI-X pending bits.
    pub fn pending_read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, vectors)) = &self.msix {
            vectors.pending_read(msix, offset, data);
        }
    }

    /// The kind that the guest's registers ask for. MSI and MSI-X at once is undefined (7.7.2.2);
    /// MSI-X wins.
    fn wanted(&self) -> Mode {
        if self
            .msix
            .as_ref()
            .is_some_and(|(msix, _)| msix.is_enabled())
        {
            Mode::Msix
        } else if self.msi.as_ref().is_some_and(|(msi, _)| msi.is_enabled()) {
            Mode::Msi
        } else {
            Mode::Pin
        }
    }

    /// Brings the device to what the registers say after an access with these effects.
    fn follow(&mut self, msi_effects: &[MsiEffect], msix_effects: &[MsixEffect]) {
        if self.mode == self.wanted() {
            match self.mode {
                Mode::Msi => {
                    if let Some((msi, vectors)) = &mut self.msi {
                        vectors.apply(msi_effects, msi);
                    }
                }
                Mode::Msix => {
                    if let Some((msix, vectors)) = &mut self.msix {
                        vectors.apply(msix_effects, msix);
                    }
                }
                Mode::Pin | Mode::Off => {}
            }
        }
        // A kind that is refused is wanted no more, and the pin is always there to end at.
        while self.mode != self.wanted() {
            self.enter(self.wanted());
        }
    }

    /// Takes down what is on, and turns a kind on as its registers say.
    fn enter(&mut self, mode: Mode) {
        match std::mem::replace(&mut self.mode, mode) {
            old if old == mode => {}
            Mode::Off => {}
            Mode::Pin => {
                if let Some(intx) = &mut self.intx {
                    intx.disable();
                }
            }
            Mode::Msi => {
                if let Some((_, vectors)) = &mut self.msi {
                    vectors.disable();
                }
            }
            Mode::Msix => {
                if let Some((_, vectors)) = &mut self.msix {
                    vectors.disable();
                }
            }
        }
        match mode {
            Mode::Off => {}
            Mode::Pin => {
                if let Some(intx) = &mut self.intx {
                    intx.enable();
                }
            }
            Mode::Msi => {
                if let Some((msi, vectors)) = &mut self.msi {
                    vectors.enable(msi);
                }
            }
            Mode::Msix => {
                if let Some((msix, vectors)) = &mut self.msix {
                    vectors.enable(msix);
                }
            }
        }
    }
}

/// The part of an access at `offset` that lies in `[start, start + size)`: where it begins inside,
/// and its bytes.
fn part_of(start: u16, size: u16, offset: u16, data: &[u8]) -> Option<(u16, &[u8])> {
    if !byte_enable::touches(offset.into(), data.len(), start.into(), size.into()) {
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
