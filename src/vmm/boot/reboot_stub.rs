//! The only firmware: nine bytes at f000:fff0 that reset the machine.
//!
//! A kernel on a hardware-reduced ACPI machine prefers EFI's reset to the ACPI register (Linux,
//! `efi_reboot_required`). Without EFI it goes back to real mode and jumps to the BIOS's entry, as
//! DOS programs did. The code at that entry writes the ACPI reset register.

use vm_memory::{Bytes, GuestAddress};

use crate::boot::error::BootError;
use crate::layout::{PORT_RESET, REBOOT_VECTOR, RESET_VALUE};
use crate::memory::guest_memory::GuestMemory;

const PORT: [u8; 2] = PORT_RESET.to_le_bytes();

const CODE: [u8; 9] = [
    0xba,
    PORT[0],
    PORT[1], // mov dx, PORT_RESET
    0xb0,
    RESET_VALUE, // mov al, RESET_VALUE
    0xee,        // out dx, al
    0xf4,        // hlt
    0xeb,
    0xfd, // jmp to the hlt
];

/// Puts the stub into guest memory.
///
/// # Errors
/// The first megabyte is not RAM.
pub fn write(memory: &GuestMemory) -> Result<(), BootError> {
    memory
        .write_slice(&CODE, GuestAddress(REBOOT_VECTOR))
        .map_err(|source| BootError::Memory {
            what: "reboot stub",
            source,
        })
}
