//! mini-vmm: a minimal virtual machine monitor for PCI passthrough with VFIO.

pub mod boot;
pub mod config;
pub mod layout;
pub mod pci;
pub mod vcpu;
