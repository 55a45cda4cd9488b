//! Whether other VMMs can give their guests what is measured of a device.

use std::path::Path;

use crate::error::{Error, Result};
use crate::network::macvtap;
use crate::session::device::{Device, Unit};
use crate::subjects::peer::{Peer, Way};

/// Checks that each VMM can give its guest what is measured of the device, with the kernel
/// `release`. `root` is /.
///
/// # Errors
/// A VMM cannot, or the kernel cannot.
pub fn check(
    root: &Path,
    device: &Device,
    peers: impl Iterator<Item = Peer>,
    release: &str,
) -> Result<()> {
    for peer in peers {
        let (gives, is, instead) = match (peer.way(), &device.unit) {
            (Way::Device, _) | (Way::Disk, Unit::Disk(_)) => continue,
            (Way::Port, Unit::Port(_)) => {
                macvtap::check(root, release)?;
                if peer == Peer::QemuVhost {
                    macvtap::check_vhost(root)?;
                }
                continue;
            }
            (Way::Disk, Unit::Port(_)) => (
                "a disk",
                "a network port",
                "qemu-vfio,qemu-e1000e,qemu-vhost",
            ),
            (Way::Disk | Way::Port, Unit::Function) => (
                match peer.way() {
                    Way::Disk => "a disk",
                    _ => "a network port",
                },
                "neither disk nor network port",
                "qemu-vfio",
            ),
            (Way::Port, Unit::Disk(_)) => (
                "a network port",
                "a disk",
                "qemu-vfio,qemu-nvme,qemu-virtio",
            ),
        };
        return Err(Error::new(format!(
            "{} gives its guest {gives}, and PCI device {} is {is}",
            peer.name(),
            device.address
        ))
        .with_hint(format!("QEMU's ways for {is}: --peer {instead}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disks::Disk;
    use crate::network::port::Port;

    #[test]
    fn a_guest_gets_what_is_measured() {
        let root = std::env::temp_dir().join(format!("bench-ways-{}", std::process::id()));
        fs::create_dir_all(root.join("proc")).unwrap();
        fs::create_dir_all(root.join("dev")).unwrap();
        let port = Unit::Port(Port {
            name: "eth0".into(),
            mac: "52:54:00:00:00:06".into(),
        });
        let disk = Unit::Disk(Disk::of("nvme0n1", None));
        let said = |unit: &Unit, peer: Peer| {
            let device = Device {
                address: "0000:01:00.0".into(),
                path: "/".into(),
                driver: None,
                modalias: String::new(),
                unit: unit.clone(),
            };
            let said = check(&root, &device, [peer].into_iter(), "6.1.0");
            said.map_or_else(|error| error.to_string(), |()| "yes".into())
        };
        let no_disk = said(&port, Peer::QemuNvme);
        assert!(no_disk.contains("gives its guest a disk"), "{no_disk}");
        let no_port = said(&disk, Peer::QemuVhost);
        assert!(no_port.contains("is a disk"), "{no_port}");
        for (unit, peer) in [
            (&disk, Peer::QemuVirtio),
            (&disk, Peer::QemuVfio),
            (&port, Peer::QemuVfio),
        ] {
            assert_eq!(said(unit, peer), "yes", "{peer:?}");
        }
        let no_macvtap = said(&port, Peer::QemuE1000e);
        fs::write(root.join("proc/devices"), "246 macvtap\n").unwrap();
        let with_macvtap = said(&port, Peer::QemuE1000e);
        let no_vhost = said(&port, Peer::QemuVhost);
        fs::write(root.join("dev/vhost-net"), "").unwrap();
        let with_vhost = said(&port, Peer::QemuVhost);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(no_macvtap, "this kernel has no macvtap");
        assert_eq!(no_vhost, "this kernel has no /dev/vhost-net");
        assert_eq!((with_macvtap, with_vhost), ("yes".into(), "yes".into()));
    }
}
