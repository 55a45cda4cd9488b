//! Finds what holds a part of a device's BARs, from /proc/iomem.
//!
//! The kernel keeps a tree of address ranges. A BAR is a range with the device's address as its
//! name; what a driver requests is a range inside. VFIO requests a whole BAR, and gets EBUSY if
//! anything else holds a part of it (drivers/vfio/pci/vfio_pci_core.c). Mostly that is the
//! framebuffer that the firmware set up, which Linux goes on drawing into.

use std::fs;

use pci::addr::Range;
use vmm::hostinfo::pci_device::PciDevice;
use vmm::hostinfo::sysfs::{Sysfs, link_name};

use crate::paths::HostPaths;

/// Names of the boot framebuffer's range: of the platform device that the kernel makes of it
/// (drivers/firmware/sysfb_simplefb.c), and of the drivers that request it
/// (drivers/video/fbdev: efifb.c, vesafb.c, simplefb.c; drivers/gpu/drm/sysfb).
const FRAMEBUFFERS: [&str; 6] = [
    "BOOTFB",
    "efifb",
    "vesafb",
    "simplefb",
    "simpledrm",
    "simple-framebuffer",
];

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
    /// The BAR.
    pub bar: usize,
    /// The range's name.
    pub name: String,
    /// The remedy, for a boot framebuffer.
    pub remedy: Option<String>,
}

/// A line of /proc/iomem.
struct Line<'a> {
    depth: usize,
    range: Range,
    name: &'a str,
}

impl Holders {
    /// Finds the holders of a device's BARs. `bars` are their indices and ranges.
    pub fn read(
        sysfs: &Sysfs,
        paths: &HostPaths,
        device: &PciDevice,
        bars: &[(usize, Range)],
    ) -> Self {
        let text = fs::read_to_string(paths.proc.join("iomem")).unwrap_or_default();
        let lines: Vec<_> = text.lines().filter_map(parse).collect();
        if lines.iter().all(|line| line.range.end() <= 1) {
            return Self::Unknown;
        }
        let mut found: Vec<Holder> = Vec::new();
        for (bar, range) in bars {
            for name in inside(&lines, range, &device.bdf.to_string()) {
                let holder = Holder {
                    bar: *bar,
                    name: name.to_owned(),
                    remedy: remedy(sysfs, name),
                };
                if !is_of_driver(device, &holder) && !found.contains(&holder) {
                    found.push(holder);
                }
            }
        }
        Self::Named(found)
    }
}

/// Whether a range goes away with the device's driver, or is VFIO's own. What a host's driver calls
/// its ranges is its own choice, so every range of a device that has such a driver is the driver's,
/// except the boot framebuffer.
fn is_of_driver(device: &PciDevice, holder: &Holder) -> bool {
    let requests = if device.is_vfio() {
        // drivers/vfio/pci/vfio_pci_core.c: pci_request_selected_regions.
        holder.name == "vfio-pci" || Some(&holder.name) == device.driver.as_ref()
    } else {
        device.driver.is_some()
    };
    requests && holder.remedy.is_none()
}

/// The names of the ranges inside a BAR, at any depth.
fn inside<'a>(lines: &[Line<'a>], bar: &Range, device: &str) -> Vec<&'a str> {
    let is_bar = |line: &&Line<'_>| line.name == device && line.range == *bar;
    let depth = lines.iter().find(is_bar).map(|line| line.depth);
    let held = lines.iter().filter(|line| {
        let touches = line.range.start < bar.end() && bar.start < line.range.end();
        // The ranges around a BAR are windows of bridges. Without a line of its own, the BAR has
        // its ranges where they are smaller than itself.
        let below = depth.map_or(line.range.size < bar.size, |depth| line.depth > depth);
        touches && below && line.name != device
    });
    held.map(|line| line.name).collect()
}

/// Parses "  fd000000-fdffffff : 0000:00:02.0"; two spaces for each level.
fn parse(line: &str) -> Option<Line<'_>> {
    let (range, name) = line.split_once(" : ")?;
    let trimmed = range.trim_start();
    let (first, last) = trimmed.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(Line {
        depth: range.len() - trimmed.len(),
        range: Range::inclusive(address(first)?, address(last)?)?,
        name: name.trim(),
    })
}

/// The remedy for a boot framebuffer. A driver's range goes when the driver is unbound; that of the
/// platform device stays as long as the kernel makes the device.
fn remedy(sysfs: &Sysfs, name: &str) -> Option<String> {
    FRAMEBUFFERS.contains(&name).then_some(())?;
    let never = "boot with initcall_blacklist=sysfb_init";
    if name == "BOOTFB" {
        return Some(format!(
            "{never}, so that Linux does not draw into the firmware's framebuffer; or boot the \
             host on another display"
        ));
    }
    let unbind = bound_framebuffer(sysfs).map_or(String::new(), |(device, driver)| {
        format!("as root: echo {device} > /sys/bus/platform/drivers/{driver}/unbind; for good, ")
    });
    Some(format!("{unbind}{never} (for efifb also: video=efifb:off)"))
}

/// The platform device of the boot framebuffer and its driver: a device is one whose driver's
/// directory is named for a framebuffer, and that has a driver.
fn bound_framebuffer(sysfs: &Sysfs) -> Option<(String, String)> {
    let devices = fs::read_dir(sysfs.path("bus/platform/devices")).ok()?;
    let names = devices.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut bound = names
        .filter(|name| name.contains("-framebuffer."))
        .filter_map(|name| {
            let driver = sysfs
                .path("bus/platform/devices")
                .join(&name)
                .join("driver");
            Some((name, link_name(&driver).ok()??))
        });
    bound.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const BDF: &str = "0000:00:02.0";

    const IOMEM: &str = "\
00000000-00000fff : Reserved
80000000-febfffff : PCI Bus 0000:00
  fd000000-fdffffff : 0000:00:02.0
    fd000000-fd2fffff : BOOTFB
      fd000000-fd2fffff : simpledrm
  fe000000-fe003fff : 0000:00:02.0
    fe000000-fe003fff : other
  fe010000-fe013fff : 0000:00:03.0
    fe010000-fe013fff : nvme
";

    fn bars() -> Vec<(usize, Range)> {
        let range = |first, last| Range::inclusive(first, last).unwrap();
        vec![
            (0, range(0xfd00_0000, 0xfdff_ffff)),
            (2, range(0xfe00_0000, 0xfe00_3fff)),
        ]
    }

    fn names(tree: &Tree) -> Vec<(usize, String, bool)> {
        let device = tree.find(BDF);
        let Holders::Named(found) = Holders::read(&tree.sysfs(), &tree.paths(), &device, &bars())
        else {
            panic!("addresses are shown");
        };
        let holders = found.into_iter();
        holders
            .map(|h| (h.bar, h.name, h.remedy.is_some()))
            .collect()
    }

    fn host(driver: Option<&str>) -> Tree {
        let tree = Tree::new();
        tree.device(BDF, "0x030000", driver, Some(1));
        tree.file("proc/iomem", IOMEM);
        tree
    }

    #[test]
    fn all_but_the_devices_driver() {
        let bootfb = (0, "BOOTFB".to_owned(), true);
        let drm = (0, "simpledrm".to_owned(), true);
        let other = (2, "other".to_owned(), false);
        let all = vec![bootfb.clone(), drm.clone(), other];
        assert_eq!(names(&host(None)), all);
        assert_eq!(names(&host(Some("vfio-pci"))), all);
        // The ranges of a host's driver go with the driver, whatever their names.
        assert_eq!(names(&host(Some("bochs-drm"))), [bootfb, drm]);
        let tree = host(Some("vfio-pci"));
        tree.file("proc/iomem", &IOMEM.replace("other", "vfio-pci"));
        assert_eq!(names(&tree).len(), 2);
        // A tree without the device's own lines.
        tree.file(
            "proc/iomem",
            "fd000000-fd2fffff : efifb\n80000000-febfffff : PCI Bus\n",
        );
        assert_eq!(names(&tree), [(0, "efifb".to_owned(), true)]);
    }

    #[test]
    fn the_remedy_names_what_is_bound() {
        let tree = host(None);
        assert!(
            remedy(&tree.sysfs(), "efifb")
                .unwrap()
                .starts_with("boot with initcall")
        );
        let device = "sys/bus/platform/devices/efi-framebuffer.0";
        tree.link(
            &format!("{device}/driver"),
            "sys/bus/platform/drivers/efi-framebuffer",
        );
        let said = remedy(&tree.sysfs(), "efifb").unwrap();
        let unbind = "as root: echo efi-framebuffer.0 > \
                      /sys/bus/platform/drivers/efi-framebuffer/unbind";
        assert!(said.starts_with(unbind), "{said}");
        assert_eq!(remedy(&tree.sysfs(), "nvme"), None);
    }

    #[test]
    fn another_user_sees_no_addresses() {
        let tree = host(None);
        for text in [
            "",
            "00000000-00000000 : Reserved\n  00000000-00000000 : BOOTFB\n",
        ] {
            tree.file("proc/iomem", text);
            let found = Holders::read(&tree.sysfs(), &tree.paths(), &tree.find(BDF), &bars());
            assert_eq!(found, Holders::Unknown);
        }
    }
}
