//! Boots a kernel: from files and a command line to guest memory and the registers of vCPU 0.
//!
//! [`Images`] holds the kernel and the initrd, checked before any VM exists. [`Images::load`] puts
//! both into guest memory, with the tables and parameters that the kernel needs, and is repeated
//! for every reboot. The kernel's magic bytes pick the protocol:
//!
//! - a bzImage is entered in long mode with a zero page (`linux`, Documentation/arch/x86/boot.rst);
//! - an ELF image is entered by its PVH note in 32-bit protected mode (`pvh`, Xen's
//!   docs/misc/pvh.pandoc), or without such a note like a bzImage at its own entry (`elf`).
//!
//! | file | content |
//! | --- | --- |
//! | `images` | the order of loading |
//! | `file`, `entry`, `error` | the user's files; the kernel's entry; the errors of loading |
//! | `linux`, `elf`, `pvh` | the kernel's format and its boot parameters |
//! | [`e820`] | the memory map |
//! | [`acpi`], `dsdt`, `aml` | the ACPI tables |
//! | [`mptable`] | the table for a kernel without ACPI |
//! | [`cpu_state`] | registers, GDT and page tables |
//! | `reboot_stub` | the code at the BIOS's entry |

pub mod acpi;
mod aml;
pub mod cpu_state;
mod dsdt;
pub mod e820;
mod elf;
mod entry;
mod error;
mod file;
mod images;
mod linux;
pub mod mptable;
mod power_button;
mod pvh;
mod reboot_stub;

pub use entry::Entry;
pub use error::{BootError, Role};
pub use images::{Images, Loaded};
