//! Facts about the host's devices and memory, read from /sys and /proc. Nothing is written.

pub mod device_node;
pub mod header;
pub mod iomem;
pub mod mdev;
pub mod memory;
pub mod name;
pub mod pci_device;
mod registered;
pub mod resets;
pub mod sriov;
pub mod sysfs;
