//! A device's configuration space when the device is opened. A mediated device is emulated by a
//! program, and may be incomplete: the region of the kernel's sample of serial ports
//! (samples/vfio-mdev/mtty.c) is a byte too short.

use pci::CONFIG_SPACE_SIZE;
use pci::config_space::{CONVENTIONAL_SIZE, ConfigSpace};
use pci::regs::COMMAND;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};
use crate::vfio::function::policy;
use crate::vfio::function::policy::Original;

/// Reads the configuration space, 256 or 4096 bytes. Bytes beyond the device's region are reserved,
/// and read as zero (PCI Local Bus 3.0, 6.1).
///
/// # Errors
/// The device does not answer.
pub fn read(device: &dyn Device) -> Result<Vec<u8>, DeviceError> {
    let region = device.region(CONFIG_REGION).size;
    let size = if region >= CONFIG_SPACE_SIZE as u64 {
        CONFIG_SPACE_SIZE
    } else {
        CONVENTIONAL_SIZE
    };
    let mut snapshot = vec![0u8; size];
    let present = snapshot.len().min(region as usize);
    // A single call: the kernel splits the access into the widths that the registers take
    // (drivers/vfio/pci/vfio_pci_config.c, `vfio_pci_config_rw`).
    device.read(CONFIG_REGION, 0, &mut snapshot[..present])?;
    Ok(snapshot)
}

/// Makes the guest's configuration space out of a snapshot.
pub fn for_guest(device: &dyn Device, snapshot: &[u8]) -> ConfigSpace {
    let mut config = policy::apply(&Original {
        name: device.name(),
        snapshot,
        hardware: &device.hardware_config(),
        bar_0: device.region(0).size,
    });
    let region = device.region(CONFIG_REGION).size as usize;
    let region = snapshot.len().min(region);
    config.set_emulated(region as u16, snapshot.len() - region);
    config.set_u16(COMMAND, 0);
    config
}
