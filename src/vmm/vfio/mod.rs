//! Devices of the host, passed through with VFIO.

pub mod device;
pub mod dma;
pub mod function;
pub mod interrupts;
pub mod open;
