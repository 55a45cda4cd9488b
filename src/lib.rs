//! mini-vmm: a minimal virtual machine monitor for PCI passthrough with VFIO.

pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod console;
pub mod devices;
pub mod host;
pub mod interrupt;
pub mod layout;
pub mod lifecycle;
pub mod machine;
pub mod memory;
pub mod observe;
pub mod pci;
pub mod vcpu;
pub mod vfio;
