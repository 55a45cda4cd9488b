//! A device's configuration space when the device is opened. A mediated device is emulated by a
//! program, and may be incomplete: the region of the kernel's sample of serial ports
//! (samples/vfio-mdev/mtty.c) is a byte too short.

use pci::CONFIG_SPACE_SIZE;
use pci::byte_enable;
use pci::clique;
use pci::config_space::{CONVENTIONAL_SIZE, ConfigSpace};
use pci::host_path::HostPath;
use pci::regs::{COMMAND, REVISION};

use crate::log::degraded::{self, Code};
use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};
use crate::vfio::function::error::FunctionError;
use crate::vfio::function::policy;
use crate::vfio::function::policy::{Original, igd};

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

/// Adds the capability of a GPU's clique to a snapshot.
///
/// # Errors
/// The device is no such GPU, or has no room.
pub fn add_clique(
    device: &dyn Device,
    snapshot: &mut [u8],
    clique: u8,
) -> Result<(), FunctionError> {
    let in_use = policy::in_use(snapshot, &device.hardware_config());
    clique::add(snapshot, clique, &in_use).map_err(|source| FunctionError::Clique {
        device: device.name().into(),
        source,
    })
}

/// Makes the guest's configuration space out of a snapshot. `port` is what the root port above the
/// function shows; `None` on bus 0.
pub fn for_guest(device: &dyn Device, snapshot: &[u8], port: Option<HostPath>) -> ConfigSpace {
    let mut config = policy::apply(&Original {
        name: device.name(),
        snapshot,
        hardware: &device.hardware_config(),
        bar_0: device.region(0).size,
        port,
    });
    tell_losses(device.name(), snapshot);
    let region = device.region(CONFIG_REGION).size as usize;
    let region = snapshot.len().min(region);
    config.set_emulated(region as u16, snapshot.len() - region);
    config.set_u16(COMMAND, 0);
    config
}

/// Tells of what the policy keeps from the guest and a user may miss.
pub fn tell_losses(name: &str, snapshot: &[u8]) {
    if igd::is_igd(name, snapshot) {
        let what = "the GPU renders and computes, and may find no display";
        let why = "the stolen memory and the OpRegion are at addresses of the host's memory";
        let loss = Code::IgdWithoutFirmware.loss(what, why).of(name);
        degraded::tell(loss.hint("use the GPU without a display, or a card in a slot"));
    }
}

/// Whether a configuration space is that of a device that does not answer: revision, class and the
/// reserved bits of COMMAND are ones, which are zeros in every device (PCI Express 6.0, 7.5.1.1.3).
/// VFIO reads these bits from the device. VFIO itself keeps the IDs, Interrupt Disable in COMMAND
/// and Capabilities List in STATUS (drivers/vfio/pci/vfio_pci_config.c, `init_pci_cap_basic_perm`).
pub fn is_dead(snapshot: &[u8]) -> bool {
    /// Bits 11 to 15.
    const RESERVED: u32 = 0xf800;
    let register = |at: u16| byte_enable::u32_at(snapshot, usize::from(at)).unwrap_or(0);
    register(REVISION) == !0 && register(COMMAND) & RESERVED == RESERVED
}

/// Reads whether the device answers; see [`is_dead`]. A device that VFIO cannot read does not.
pub(super) fn answers(device: &dyn Device) -> bool {
    let mut header = [0; 12];
    device.read(CONFIG_REGION, 0, &mut header).is_ok() && !is_dead(&header)
}
