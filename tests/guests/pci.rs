//! What guests do with PCI, as extensions of the assembler.

use crate::common::asm::{Asm, Width};

/// ECAM as the layout has it.
pub const ECAM: u32 = 0xe000_0000;
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
pub const COMMAND: u16 = 4;
/// COMMAND's bits: ports, memory, bus master.
pub const IO: u32 = 1;
pub const MEMORY: u32 = 2;
pub const MASTER: u32 = 4;

/// The device in the first free slot.
pub const SLOT: u8 = 1;

/// The address of a register in ECAM.
pub fn ecam(device: u8, offset: u16) -> u32 {
    ECAM + (u32::from(device) << 15) + u32::from(offset)
}

/// The register of the expansion ROM.
pub const ROM_REGISTER: u16 = 0x30;

/// The register of a BAR.
pub fn bar_register(bar: u16) -> u16 {
    0x10 + 4 * bar
}

impl Asm {
    /// Puts a register's address into port 0xcf8; returns the port of the data.
    pub fn cfg_address(&mut self, bdf: (u8, u8, u8), offset: u16) -> u16 {
        let (bus, device, function) = bdf;
        let address = 1 << 31
            | u32::from(bus) << 16
            | u32::from(device) << 11
            | u32::from(function) << 8
            | u32::from(offset & 0xfc);
        self.out(Width::Dword, ADDRESS, address);
        DATA + (offset & 3)
    }

    /// eax takes a register of a device on bus 0, by ports.
    pub fn cfg_read(&mut self, device: u8, offset: u16, width: Width) -> &mut Self {
        let port = self.cfg_address((0, device, 0), offset);
        self.input(width, port)
    }

    pub fn cfg_write(&mut self, device: u8, offset: u16, width: Width, value: u32) -> &mut Self {
        let port = self.cfg_address((0, device, 0), offset);
        self.out(width, port, value)
    }

    /// Reads a dword and prints it.
    pub fn cfg_show(&mut self, device: u8, offset: u16) -> &mut Self {
        self.cfg_read(device, offset, Width::Dword).print_eax()
    }

    /// COMMAND of the device in the first slot.
    pub fn command(&mut self, value: u32) -> &mut Self {
        self.cfg_write(SLOT, COMMAND, Width::Word, value)
    }

    /// A BAR's register of the device in the first slot.
    pub fn set_bar(&mut self, bar: u16, value: u32) -> &mut Self {
        self.cfg_write(SLOT, bar_register(bar), Width::Dword, value)
    }

    /// Loads a dword from memory and prints it.
    pub fn show(&mut self, address: u32) -> &mut Self {
        self.load32(address).print_eax()
    }
}
