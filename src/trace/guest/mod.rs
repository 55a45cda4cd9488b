//! What the guest did: exits, coalesced writes, and what they mean on PCI. Pure: bytes go in.

pub mod access;
pub mod acpi;
pub mod capability_names;
pub mod config_names;
pub mod functions;
pub mod messages;
pub mod nvme;
pub mod ports;
mod q35;
pub mod ring;
pub mod run_page;
pub mod shadow;
pub mod vm;
