//! A device's configuration space as it is when the device is taken, and what of it is out of the
//! ordinary. A mediated device is a program's idea of PCI: the kernel's sample of serial ports
//! (samples/vfio-mdev/mtty.c) shows a byte too few, and a COMMAND register that nobody can write.

use pci::CONFIG_SPACE_SIZE;
use pci::config_space::CONVENTIONAL_SIZE;
use pci::regs::{COMMAND, command};
use tracing::info;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};

/// The decode enables in COMMAND's low byte.
const DECODE: u8 = (command::IO | command::MEMORY) as u8;

/// Configuration space of 256 or 4096 bytes. What the device's region does not have is reserved: it
/// reads as zero (PCI Local Bus 3.0, 6.1).
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
    let mut image = vec![0u8; size];
    let there = image.len().min(region as usize);
    // One call: the kernel divides it as each register wants it (drivers/vfio/pci/vfio_pci_config.c,
    // `vfio_pci_config_rw`).
    device.read(CONFIG_REGION, 0, &mut image[..there])?;
    Ok(image)
}

/// Firmware's view: nothing decodes, nothing masters the bus. Returns the decode enables that stay on
/// in the register for all that, and of which a guest must be told here.
///
/// # Errors
/// When the device does not answer.
pub fn turn_off(device: &dyn Device) -> Result<u8, DeviceError> {
    device.write(CONFIG_REGION, COMMAND.into(), &[0, 0])?;
    let mut low = [0];
    device.read(CONFIG_REGION, COMMAND.into(), &mut low)?;
    let stuck = low[0] & DECODE;
    if stuck != 0 {
        info!(
            "{}: COMMAND cannot be written; decoding is turned on and off here alone",
            device.name()
        );
    }
    Ok(stuck)
}
