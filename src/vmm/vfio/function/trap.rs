//! The trapped side of a BAR: a guest's access that left KVM is the MSI-X table's, the ROM's, or the
//! device's.

use std::sync::Weak;

use pci::byte_enable;
use pci::rom::ROM;
use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

use crate::vfio::function::VfioFunction;

/// A BAR of a function on the bus. It does not keep the function alive.
pub(super) struct BarTrap {
    pub(super) function: Weak<VfioFunction>,
    pub(super) bar: usize,
}

impl BarTrap {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(function) = self.function.upgrade() {
            function.bar_read(self.bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(function) = self.function.upgrade() {
            function.bar_write(self.bar, offset, data);
        }
    }
}

impl DeviceMmio for BarTrap {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.write(offset, data);
    }
}

impl DevicePio for BarTrap {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        self.read(offset.into(), data);
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        self.write(offset.into(), data);
    }
}

/// Which part of MSI-X an access belongs to.
enum MsixPart {
    Table(u64),
    Pending(u64),
    /// Partly inside and partly not, which no driver does.
    Straddling,
}

impl VfioFunction {
    /// A read of a trapped piece of a BAR.
    pub(super) fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if bar == ROM {
            return self.rom_read(offset, data);
        }
        match self.msix_part(bar, offset, data.len()) {
            None => {
                if let Some(device) = self.device()
                    && let Err(e) = device.read(bar as u32, offset, data)
                {
                    data.fill(0xff);
                    if !self.lose_access(&*device, bar, offset) {
                        self.complain(&e);
                    }
                }
            }
            Some(part) => {
                let state = self.lock();
                match part {
                    _ if state.fenced => {}
                    MsixPart::Table(at) => state.interrupts.table_read(at, data),
                    MsixPart::Pending(at) => state.interrupts.pending_read(at, data),
                    MsixPart::Straddling => {}
                }
            }
        }
    }

    /// A write to a trapped piece of a BAR.
    pub(super) fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if bar == ROM {
            return;
        }
        match self.msix_part(bar, offset, data.len()) {
            None => {
                if let Some(device) = self.device()
                    && let Err(e) = device.write(bar as u32, offset, data)
                    && !self.lose_access(&*device, bar, offset)
                {
                    self.complain(&e);
                }
            }
            Some(MsixPart::Table(at)) => {
                let mut state = self.lock();
                if !state.fenced {
                    state.interrupts.table_write(at, data);
                    self.follow_spares(&mut state);
                }
            }
            // Pending bits are read-only; what lies across two things is neither.
            Some(MsixPart::Pending(_) | MsixPart::Straddling) => {}
        }
    }

    /// Which part of MSI-X an access belongs to.
    fn msix_part(&self, bar: usize, offset: u64, len: usize) -> Option<MsixPart> {
        let place = self.msix_place.as_ref()?;
        let parts = [
            (place.table_bar, place.table_offset, place.table_size()),
            (place.pba_bar, place.pba_offset, place.pba_size()),
        ];
        for (i, (in_bar, start, size)) in parts.into_iter().enumerate() {
            let start = u64::from(start);
            if usize::from(in_bar) != bar || !byte_enable::touches(offset, len, start, size) {
                continue;
            }
            return Some(match offset.checked_sub(start) {
                Some(at) if at + len as u64 <= size && i == 0 => MsixPart::Table(at),
                Some(at) if at + len as u64 <= size => MsixPart::Pending(at),
                _ => MsixPart::Straddling,
            });
        }
        None
    }
}
