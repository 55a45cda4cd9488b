//! The function behind its BARs: who answers an access that traps. The expansion ROM is a copy, the
//! MSI-X table and its pending bits are emulated, registers that mirror configuration space lead
//! there, and the device answers the rest.

use pci::PciFunction;
use pci::msix_layout::MsixPart;
use pci::rom::ROM;

use crate::log::error_chain::with_causes;
use crate::vfio::function::VfioFunction;
use crate::vfio::function::mirrors::{Access, Behind};
use crate::vfio::function::rom;
use crate::vfio::function::trap::BarAccess;

impl VfioFunction {
    fn read_rom(&self, offset: u64, data: &mut [u8]) {
        if let Some(_begun) = self.bar_accesses.begin()
            && let Some(device) = self.device()
            && let Err(e) = self.rom.read(&*device, offset, data)
        {
            rom::tell_unreadable(device.name(), &with_causes(&e));
        }
    }

    fn read_register(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if let Some(_begun) = self.bar_accesses.begin()
            && let Some(device) = self.device()
            && let Err(e) = device.read(bar as u32, offset, data)
        {
            data.fill(0xff);
            if !self.disconnect_if_unreadable(&*device, bar, offset) {
                self.connection.complain(&e);
            }
        }
    }

    fn write_register(&self, bar: usize, offset: u64, data: &[u8]) {
        if let Some(_begun) = self.bar_accesses.begin()
            && let Some(device) = self.device()
            && let Err(e) = device.write(bar as u32, offset, data)
            && !self.disconnect_if_unreadable(&*device, bar, offset)
        {
            self.connection.complain(&e);
        }
    }

    fn access_msix(&self, part: MsixPart, access: Access<'_>) {
        let mut state = self.lock();
        match (part, access) {
            _ if !state.reachable() => {}
            (MsixPart::Table(at), Access::Read(data)) => state.interrupts.table_read(at, data),
            (MsixPart::Table(at), Access::Write(data)) => {
                state.interrupts.table_write(at, data);
                state.stop_coalescing_if_used();
            }
            (MsixPart::Pending(at), Access::Read(data)) => state.interrupts.pending_read(at, data),
            // Pending bits are read-only, and an access that straddles belongs to neither side.
            (MsixPart::Pending(_) | MsixPart::Straddling, _) => {}
        }
    }

    fn msix_part(&self, bar: usize, offset: u64, len: usize) -> Option<MsixPart> {
        self.msix.as_ref()?.part_at(bar, offset, len)
    }
}

impl BarAccess for VfioFunction {
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if bar == ROM {
            return self.read_rom(offset, data);
        }
        if self.mirrors.touch(bar, offset, data.len()) {
            return self.mirrors.access(self, bar, offset, Access::Read(data));
        }
        self.register(bar, offset, Access::Read(data));
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if bar == ROM {
            return;
        }
        if self.mirrors.touch(bar, offset, data.len()) {
            return self.mirrors.access(self, bar, offset, Access::Write(data));
        }
        self.register(bar, offset, Access::Write(data));
    }
}

impl Behind for VfioFunction {
    fn config(&self, register: u16, access: Access<'_>) {
        match access {
            Access::Read(data) => self.config_read(register, data),
            Access::Write(data) => self.config_write(register, data),
        }
    }

    fn table(&self, offset: u64, access: Access<'_>) {
        self.access_msix(MsixPart::Table(offset), access);
    }

    fn is_emulated(&self, bar: usize, offset: u64, len: usize) -> bool {
        self.msix_part(bar, offset, len).is_some()
    }

    fn register(&self, bar: usize, offset: u64, access: Access<'_>) {
        match (self.msix_part(bar, offset, access.len()), access) {
            (Some(part), access) => self.access_msix(part, access),
            (None, Access::Read(data)) => self.read_register(bar, offset, data),
            (None, Access::Write(data)) => self.write_register(bar, offset, data),
        }
    }
}
