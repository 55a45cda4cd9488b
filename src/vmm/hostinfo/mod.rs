//! Facts about the host's devices and memory, read from /sys and /proc. Nothing is written.

pub mod answer;
pub mod bars;
pub mod coherency;
pub mod device_names;
pub mod device_node;
pub mod express;
pub mod guardian;
pub mod header;
pub mod holders;
pub mod iomem;
pub mod iova;
pub mod locked;
pub mod looker;
pub mod mdev;
pub mod memory;
pub mod name;
pub mod node_access;
pub mod node_of;
pub mod pci_device;
pub mod permission;
mod registered;
pub mod resets;
pub mod resizable;
pub mod sriov;
mod status;
pub mod sysfs;
