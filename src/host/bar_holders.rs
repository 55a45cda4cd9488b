//! Finds what holds a part of a device's BARs.

use std::fs;

use pci::addr::Range;
use vmm::hostinfo::iomem;
use vmm::hostinfo::pci_device::PciDevice;

use crate::paths::HostPaths;

/// What the host's address tree says about a device's BARs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holders {
    /// /proc/iomem shows no addresses: the user is not root.
    Unknown,
    /// The holders.
    Named(Vec<Holder>),
}

/// A range inside a BAR that is not the device's driver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The BAR; `None` if the tree has the BAR at another address than sysfs.
    pub bar: Option<usize>,
    /// The range's name.
    pub name: String,
    /// Whether the range is the boot framebuffer's.
    pub framebuffer: bool,
}

impl Holders {
    /// Finds the holders of a device's BARs. `bars` are their indices and ranges.
    pub fn read(paths: &HostPaths, device: &PciDevice, bars: &[(usize, Range)]) -> Self {
        let text = fs::read_to_string(paths.proc.join("iomem")).unwrap_or_default();
        let Some(found) = iomem::holders(&text, device.bdf) else {
            return Self::Unknown;
        };
        let found = found.iter().filter(|holder| !is_of_driver(device, holder));
        let found = found.map(|holder| Holder {
            bar: bars
                .iter()
                .find(|(_, range)| *range == holder.bar)
                .map(|(bar, _)| *bar),
            name: holder.name.clone(),
            framebuffer: holder.is_framebuffer(),
        });
        Self::Named(found.collect())
    }
}

/// Whether a range goes away with the device's driver, or is VFIO's own. What a host's driver calls
/// its ranges is its own choice, so every range of a device that has such a driver is the driver's,
/// except the boot framebuffer.
fn is_of_driver(device: &PciDevice, holder: &iomem::Holder) -> bool {
    let own = if device.is_vfio() {
        holder.is_vfio() || Some(&holder.name) == device.driver.as_ref()
    } else {
        device.driver.is_some()
    };
    own && !holder.is_framebuffer()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const BDF: &str = "0000:00:02.0";

    const IOMEM: &str = "\
80000000-febfffff : PCI Bus 0000:00
  fd000000-fdffffff : 0000:00:02.0
    fd000000-fd2fffff : BOOTFB
  fe000000-fe003fff : 0000:00:02.0
    fe000000-fe003fff : other
";

    fn holders(driver: Option<&str>, iomem: &str) -> Holders {
        let tree = Tree::new();
        tree.device(BDF, "0x030000", driver, Some(1));
        tree.file("proc/iomem", iomem);
        let range = |first, last| Range::inclusive(first, last).unwrap();
        let bars = [
            (0, range(0xfd00_0000, 0xfdff_ffff)),
            (2, range(0xfe00_0000, 0xfe00_3fff)),
        ];
        Holders::read(&tree.paths(), &tree.find(BDF), &bars)
    }

    #[test]
    fn all_but_the_devices_driver() {
        let holder = |bar, name: &str, framebuffer| Holder {
            bar: Some(bar),
            name: name.into(),
            framebuffer,
        };
        let boot = || holder(0, "BOOTFB", true);
        let both = || Holders::Named(vec![boot(), holder(2, "other", false)]);
        assert_eq!(holders(None, IOMEM), both());
        assert_eq!(holders(Some("vfio-pci"), IOMEM), both());
        // The ranges of a host's driver go with the driver, whatever their names.
        let only_boot = Holders::Named(vec![boot()]);
        assert_eq!(holders(Some("bochs-drm"), IOMEM), only_boot);
        let own = IOMEM.replace("other", "vfio-pci");
        assert_eq!(holders(Some("vfio-pci"), &own), only_boot);
        assert_eq!(holders(None, "00000000-00000000 : x\n"), Holders::Unknown);
    }
}
