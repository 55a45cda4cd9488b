//! Who has a range of the host's physical addresses (/proc/iomem; kernel/resource.c).
//!
//! The kernel prints a tree of ranges: a bridge's window, the BAR in it, named by its device's
//! address, and in the BAR whatever a driver or the boot framebuffer has reserved. VFIO reserves a
//! whole BAR, and gets EBUSY if anything else has a part of it
//! (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_core_setup_barmap`).

use std::fs;

use pci::Bdf;
use pci::addr::Range;

use crate::hostinfo::sysfs::{Sysfs, link_name};

/// The names that VFIO gives its ranges: `vfio-pci`, and `vfio` in newer kernels.
const VFIO: [&str; 2] = ["vfio-pci", "vfio"];

/// The names of the boot framebuffer's ranges: of the platform device that the kernel makes
/// (drivers/firmware/sysfb_simplefb.c), and of the drivers that use it (drivers/video/fbdev:
/// efifb.c, vesafb.c, simplefb.c; drivers/gpu/drm/sysfb).
const FRAMEBUFFERS: [&str; 9] = [
    PLATFORM_DEVICE,
    "efifb",
    "efi",
    "efidrm",
    "vesafb",
    "vesadrm",
    "simplefb",
    "simpledrm",
    "simple-framebuffer",
];
const PLATFORM_DEVICE: &str = "BOOTFB";

/// A range inside a BAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The BAR.
    pub bar: Range,
    /// The range's name.
    pub name: String,
}

impl Holder {
    /// Whether VFIO has reserved the range.
    pub fn is_vfio(&self) -> bool {
        VFIO.contains(&self.name.as_str())
    }

    /// Whether the range is the boot framebuffer's.
    pub fn is_framebuffer(&self) -> bool {
        FRAMEBUFFERS.contains(&self.name.as_str())
    }
}

/// The names of the ranges inside the BARs of `device`, other than VFIO's own; empty if there is
/// none, or if this user may not read the addresses.
pub fn others(device: Bdf) -> Vec<String> {
    // Without the file nothing can be said about holders.
    let text = fs::read_to_string("/proc/iomem").unwrap_or_default();
    let holders = holders(&text, device).unwrap_or_default().into_iter();
    let mut names: Vec<_> = holders.filter(|h| !h.is_vfio()).map(|h| h.name).collect();
    names.dedup();
    names
}

/// Finds the ranges inside the BARs of `device` in the text of /proc/iomem, each name once a BAR.
/// `None` if the addresses are hidden, as they are for all users but root.
pub fn holders(text: &str, device: Bdf) -> Option<Vec<Holder>> {
    let device = device.to_string();
    let mut found: Vec<Holder> = Vec::new();
    // The BAR whose lines are being read, and the depth of its line.
    let mut inside: Option<(Range, usize)> = None;
    let mut shown = false;
    for (depth, range, name) in text.lines().filter_map(parse) {
        shown |= range.end() > 1;
        if inside.is_some_and(|(_, bar)| depth <= bar) {
            inside = None;
        }
        match inside {
            None if name == device => inside = Some((range, depth)),
            None => {}
            Some((bar, _)) => {
                let name = name.to_owned();
                let holder = Holder { bar, name };
                if !found.contains(&holder) {
                    found.push(holder);
                }
            }
        }
    }
    shown.then_some(found)
}

/// Parses "  fd000000-fdffffff : 0000:00:02.0": the depth in columns, the range and the name.
fn parse(line: &str) -> Option<(usize, Range, &str)> {
    let (range, name) = line.split_once(" : ")?;
    let trimmed = range.trim_start();
    let (first, last) = trimmed.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let depth = range.len() - trimmed.len();
    Some((
        depth,
        Range::inclusive(address(first)?, address(last)?)?,
        name.trim(),
    ))
}

/// What frees a BAR from these holders.
pub fn remedy(sysfs: &Sysfs, holders: &[String]) -> String {
    let boot = |name: &String| FRAMEBUFFERS.contains(&name.as_str());
    if !holders.iter().any(boot) {
        return "end what holds it: as root, `cat /proc/iomem` shows the name below the device's \
                BAR"
        .into();
    }
    let never = "boot the host with initcall_blacklist=sysfb_init, so that it makes no framebuffer \
                 of the device, or on another display";
    // The platform device keeps its range when its driver is unbound; a driver's own range goes.
    let platform = holders.iter().any(|name| name == PLATFORM_DEVICE);
    match bound_framebuffer(sysfs).filter(|_| !platform) {
        Some((device, driver)) => format!(
            "as root: echo {device} > /sys/bus/platform/drivers/{driver}/unbind; or {never}"
        ),
        None => never.into(),
    }
}

/// The platform device of the boot framebuffer, and its driver if one has it. The kernel names the
/// device for the firmware's interface: efi-framebuffer.0, vesa-framebuffer.0,
/// simple-framebuffer.0.
fn bound_framebuffer(sysfs: &Sysfs) -> Option<(String, String)> {
    let devices = sysfs.path("bus/platform/devices");
    let names = fs::read_dir(&devices).ok()?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut bound = names
        .filter(|name| name.contains("-framebuffer."))
        .filter_map(|name| {
            let driver = link_name(&devices.join(&name).join("driver")).ok()??;
            Some((name, driver))
        });
    bound.next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const IOMEM: &str = "\
00001000-0009fbff : System RAM
c0000000-febfffff : PCI Bus 0000:00
  d0000000-d1ffffff : PCI Bus 0000:01
    d0000000-d0ffffff : 0000:01:00.0
      d0000000-d02fffff : BOOTFB
        d0000000-d02fffff : simpledrm
    d1000000-d1003fff : 0000:01:00.0
      d1000000-d1003fff : vfio-pci
    d1004000-d1007fff : 0000:01:00.1
      d1004000-d1007fff : xhci-hcd
    d1008000-d100bfff : 0000:01:00.2
      d1008000-d100bfff : vfio-x
  fe000000-fe003fff : 0000:02:00.0
fec00000-fec003ff : IOAPIC 0
";

    #[test]
    fn what_lies_in_a_bar_holds_it() {
        let of = |bdf: &str| {
            let holders = holders(IOMEM, bdf.parse().unwrap()).unwrap().into_iter();
            let facts = holders.map(|h| (h.bar.start, h.is_vfio(), h.is_framebuffer(), h.name));
            facts.collect::<Vec<_>>()
        };
        assert_eq!(
            of("0000:01:00.0"),
            [
                (0xd000_0000, false, true, "BOOTFB".into()),
                (0xd000_0000, false, true, "simpledrm".into()),
                (0xd100_0000, true, false, "vfio-pci".into()),
            ]
        );
        assert_eq!(
            of("0000:01:00.1"),
            [(0xd100_4000, false, false, "xhci-hcd".into())]
        );
        // A name that says VFIO is not VFIO's.
        assert_eq!(
            of("0000:01:00.2"),
            [(0xd100_8000, false, false, "vfio-x".into())]
        );
        assert!(of("0000:02:00.0").is_empty() && of("0000:03:00.0").is_empty());
    }

    #[test]
    fn another_user_sees_no_addresses() {
        let zeros = "00000000-00000000 : PCI Bus\n  00000000-00000000 : 0000:01:00.0\n\
                     \x20   00000000-00000000 : BOOTFB\n";
        for text in ["", zeros] {
            assert_eq!(holders(text, "01:00.0".parse().unwrap()), None);
        }
    }

    #[test]
    fn the_remedy_names_what_is_bound() {
        let dir = TempDir::new().unwrap();
        let sysfs = Sysfs::at(dir.as_path());
        let of = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            remedy(&sysfs, &names)
        };
        assert!(of(&["efifb"]).starts_with("boot the host with initcall_blacklist"));
        let device = dir.as_path().join("bus/platform/devices/efi-framebuffer.0");
        fs::create_dir_all(&device).unwrap();
        symlink("../../drivers/efi-framebuffer", device.join("driver")).unwrap();
        let unbind = "as root: echo efi-framebuffer.0 > \
                      /sys/bus/platform/drivers/efi-framebuffer/unbind";
        assert!(of(&["efifb"]).starts_with(unbind));
        assert!(of(&["BOOTFB", "efifb"]).starts_with("boot the host"));
        assert!(of(&["xhci-hcd"]).contains("/proc/iomem"));
    }
}
