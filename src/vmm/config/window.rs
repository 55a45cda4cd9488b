//! How large the 64-bit window must be for the devices and ports of a guest, and what to do if
//! something does not fit.

use std::collections::BTreeMap;

use pci::bar_assignment::AssignError;
use pci::bridge_windows::{Reserve, Window, upper_bound};

use crate::config::device::DeviceConfig;
use crate::config::ports::{OCCUPIED, PortsConfig};
use crate::config::slots;

/// Bytes of a 64-bit window that hold all BARs and prefetchable windows that may lie there. `sizes`
/// has the sizes of the BARs of each device. Before a device's function is made, nobody knows which
/// of them are 64-bit BARs, so all count.
pub fn bytes_above(configs: &[DeviceConfig], ports: &PortsConfig, sizes: &[Vec<u64>]) -> u64 {
    // Slots that cannot be are an error of their own.
    let addresses = slots::assign(configs).unwrap_or_default();
    let (mut on_root, mut behind) = (Vec::new(), BTreeMap::<_, Vec<u64>>::new());
    for (index, sizes) in sizes.iter().enumerate() {
        match addresses.get(index) {
            Some(address) if address.behind.is_some() => {
                behind.entry(address.slot).or_default().extend(sizes);
            }
            _ => on_root.extend(sizes),
        }
    }
    if behind.is_empty() && ports.count == 0 {
        return on_root.into_iter().fold(0, u64::saturating_add);
    }
    let occupied = behind.into_values().map(|sizes| (sizes, OCCUPIED));
    let empty = (0..ports.count).map(|_| (Vec::new(), ports.reserve));
    upper_bound(
        on_root,
        occupied.chain(empty).collect::<Vec<(Vec<u64>, Reserve)>>(),
    )
}

/// What the user can do about an error, in the words of the flags.
pub fn remedy(error: &AssignError) -> &'static str {
    match error {
        AssignError::Window {
            window: Window::Memory32,
            ..
        } => {
            "give the device port=off, which lets BARs lie above 4 GiB that are not prefetchable; \
             or give fewer or smaller root ports, for example --ports 1,mem32=2M"
        }
        AssignError::Window {
            window: Window::Io, ..
        } => "give a device with I/O ports port=off, or remove io=on from --ports",
        AssignError::Window { .. } | AssignError::Bar { .. } | AssignError::Buses => {
            "pass fewer devices, give the guest less memory with --memory, or fewer or smaller \
             root ports, for example --ports 1,mem64=1G"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ports;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn ports_and_devices_count() {
        let configs = |texts: &[&str]| -> Vec<DeviceConfig> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let none = PortsConfig::default();
        let gpu = vec![16 * MIB, 16 * GIB, 0, 32 * MIB, 0, 0x80];
        let sum = 16 * GIB + 48 * MIB + 0x80;
        let on_root = configs(&["1:0.0", "2:0.0"]);
        let two = [gpu.clone(), gpu.clone()];
        assert_eq!(bytes_above(&on_root, &none, &two), 2 * sum);
        assert_eq!(bytes_above(&[], &none, &[]), 0);
        let two_ports = ports::parse("2").unwrap();
        assert_eq!(bytes_above(&[], &two_ports, &[]), 2 * GIB);
        // Each window begins at a multiple of its largest BAR.
        let behind = configs(&["1:0.0,port=on", "2:0.0,port=on"]);
        let bytes = bytes_above(&behind, &none, &two);
        assert_eq!(bytes, 48 * GIB + 49 * MIB);
        assert_eq!(bytes_above(&behind, &two_ports, &two), 51 * GIB);
        // Functions of one device share a port.
        let functions = configs(&["1:0.0,port=on", "1:0.1,port=on"]);
        let bytes = bytes_above(&functions, &none, &[gpu, vec![0x4000]]);
        assert_eq!(bytes, 16 * GIB + 49 * MIB);
    }

    #[test]
    fn each_window_has_a_remedy() {
        let port = "00:01.0".parse().unwrap();
        let error = |window| AssignError::Window {
            port,
            window,
            needs: 2,
            has: 1,
        };
        assert!(remedy(&error(Window::Memory32)).starts_with("give the device port=off"));
        assert!(remedy(&error(Window::Io)).contains("remove io=on"));
        assert!(remedy(&error(Window::Prefetchable)).contains("mem64="));
        assert!(remedy(&AssignError::Buses).contains("fewer"));
    }
}
