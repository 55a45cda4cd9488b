//! Devices of the host, passed through with VFIO.
//!
//! | file or folder | what |
//! | --- | --- |
//! | [`open`] | opens devices by either of the kernel's interfaces: the order, and why |
//! | [`opener`] | makes the calls that may sleep in the kernel, in a process of its own |
//! | [`kernel_calls`] | those calls, made by the running kernel |
//! | [`device`] | the interface between a function and its device; tests implement it too |
//! | [`vfio_file`] | the device behind VFIO's file: implements that interface |
//! | [`function`] | a function as the guest sees it: configuration space, BARs, ROM, power, reset |
//! | [`interrupts`] | INTx, MSI and MSI-X, from the device to the guest |
//! | [`dma`] | maps guest memory for DMA, by either interface |
//! | `hot_reset` | the reset of a whole slot or bus |
//! | [`host_path`] | the device's link and AtomicOps on the host, for a root port of the guest |
//! | `hardware_config` | configuration space with what VFIO leaves out |
//! | `info` | parses the kernel's answers that end in a chain of capabilities |
//! | [`view`] | a function as a report shows it |
//! | `uapi` | the ioctls, one function for each |

pub mod device;
pub mod dma;
pub mod function;
mod hardware_config;
pub mod host_path;
mod hot_reset;
mod info;
pub mod interrupts;
pub mod kernel_calls;
pub mod open;
pub mod opener;
mod uapi;
pub mod vfio_file;
pub mod view;
