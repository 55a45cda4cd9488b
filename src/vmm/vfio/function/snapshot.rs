//! A device's configuration space as it is when the device is opened. A mediated device is a
//! program's idea of PCI: the kernel's sample of serial ports (samples/vfio-mdev/mtty.c) shows a
//! byte too few.

use pci::CONFIG_SPACE_SIZE;
use pci::config_space::CONVENTIONAL_SIZE;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};

/// Configuration space of 256 or 4096 bytes. What the device's region does not have is reserved,
/// and reads as zero (PCI Local Bus 3.0, 6.1).
///
/// # Errors
/// When the device does not answer.
pub fn read(device: &dyn Device) -> Result<Vec<u8>, DeviceError> {
    let region = device.region(CONFIG_REGION).size;
    let size = if region >= CONFIG_SPACE_SIZE as u64 {
        CONFIG_SPACE_SIZE
    } else {
        CONVENTIONAL_SIZE
    };
    let mut snapshot = vec![0u8; size];
    let present = snapshot.len().min(region as usize);
    // One call: the kernel divides the access as each register wants it
    // (drivers/vfio/pci/vfio_pci_config.c, `vfio_pci_config_rw`).
    device.read(CONFIG_REGION, 0, &mut snapshot[..present])?;
    Ok(snapshot)
}
