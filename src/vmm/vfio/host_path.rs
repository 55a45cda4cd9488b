//! The way from an open device to the host's root complex, which the root port above the device in
//! the guest shows.

use pci::config_space::CONVENTIONAL_SIZE;
use pci::express;
use pci::host_path::HostPath;
use pci::link::Link;

use crate::vfio::device::{CONFIG_REGION, Device, DeviceError};

/// What a root port above the device shows. A device without a link gets the slowest.
///
/// # Errors
/// The device does not answer.
pub fn of(device: &dyn Device) -> Result<HostPath, DeviceError> {
    let mut config = [0; CONVENTIONAL_SIZE];
    // A mediated device's region may be shorter.
    let present = device.region(CONFIG_REGION).size.min(config.len() as u64) as usize;
    device.read(CONFIG_REGION, 0, &mut config[..present])?;
    Ok(HostPath {
        link: device.link(&config).unwrap_or(Link::SLOWEST),
        payload: express::max_payload(&config).unwrap_or(0),
        atomic_ops: device.atomic_ops(),
    })
}

#[cfg(test)]
mod tests {
    use pci::atomic_ops::AtomicOps;

    use super::*;
    use crate::vfio::function::test_device::TestDevice;

    /// An endpoint of 8 GT/s x4 with payloads of 256 bytes.
    fn endpoint() -> TestDevice {
        let capability = [
            0x10, 0, 0x02, 0, 0, 0, 0, 0, 0x30, 0x28, 0, 0, 0x84, 0, 0, 0,
        ];
        TestDevice::new()
            .with_region(CONFIG_REGION, 256, &[])
            .with_config(6, &[0x10])
            .with_config(0x34, &[0x40])
            .with_config(0x40, &capability)
            .with_config(0x52, &[0x43, 0])
    }

    #[test]
    fn a_port_shows_exactly_what_the_host_has() {
        let bits_64 = AtomicOps {
            bits_64: true,
            ..AtomicOps::NONE
        };
        for atomic_ops in [AtomicOps::NONE, bits_64, AtomicOps::ALL] {
            let path = of(&endpoint().with_atomic_ops(atomic_ops)).unwrap();
            assert_eq!(path.link.to_string(), "8.0 GT/s x4");
            assert_eq!((path.payload, path.atomic_ops), (1, atomic_ops));
        }
        let plain = of(&TestDevice::new().with_region(CONFIG_REGION, 256, &[])).unwrap();
        assert_eq!(plain, HostPath::default());
        let deaf = endpoint();
        deaf.set_deaf(true);
        assert!(of(&deaf).is_err());
    }
}
