//! Who has a range of the host's physical addresses (/proc/iomem; kernel/resource.c).
//!
//! The kernel prints a tree of ranges: a bridge's window, the BAR in it, and in the BAR whatever a
//! driver or the boot framebuffer has reserved. VFIO reserves the BARs of a device by the device's
//! driver, so any other name below a BAR keeps VFIO from using that BAR
//! (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_core_setup_barmap`).

use std::fs;

use pci::Bdf;

/// The names of the ranges inside the BARs of `device`, other than VFIO's own; empty if there is
/// none, or if this user may not read the addresses.
pub fn holders(device: Bdf) -> Vec<String> {
    // Without the file nothing can be said about holders.
    let text = fs::read_to_string("/proc/iomem").unwrap_or_default();
    holders_in(&text, device)
}

/// [`holders`] of the text of /proc/iomem. The kernel names a BAR by the device's address, and a
/// holder's line is indented deeper.
fn holders_in(text: &str, device: Bdf) -> Vec<String> {
    let bar = device.to_string();
    let mut holders: Vec<String> = Vec::new();
    // The depth of the BAR whose lines are being read.
    let mut inside: Option<usize> = None;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let Some((_, name)) = line.split_once(" : ") else {
            continue;
        };
        if inside.is_some_and(|bar| depth <= bar) {
            inside = None;
        }
        if inside.is_none() && name == bar {
            inside = Some(depth);
        } else if inside.is_some() && !name.contains("vfio") && !holders.iter().any(|h| h == name) {
            holders.push(name.to_owned());
        }
    }
    holders
}

/// What frees a BAR from these holders.
pub fn remedy(holders: &[String]) -> String {
    /// The names under which the firmware's framebuffer is reserved (drivers/firmware/sysfb.c,
    /// drivers/video/fbdev, drivers/gpu/drm/sysfb), with the platform driver that has it.
    const FRAMEBUFFERS: [(&str, &str); 6] = [
        ("BOOTFB", "simple-framebuffer"),
        ("simplefb", "simple-framebuffer"),
        ("simpledrm", "simple-framebuffer"),
        ("efifb", "efi-framebuffer"),
        ("efi", "efi-framebuffer"),
        ("vesa", "vesa-framebuffer"),
    ];
    let driver = holders.iter().find_map(|holder| {
        let known = FRAMEBUFFERS
            .iter()
            .find(|(name, _)| holder.starts_with(name));
        known.map(|(_, driver)| driver)
    });
    match driver {
        Some(driver) => format!(
            "boot the host with initcall_blacklist=sysfb_init, so that it makes no framebuffer of \
             the device; or as root: echo {driver}.0 > /sys/bus/platform/drivers/{driver}/unbind"
        ),
        None => "end what holds it: as root, `cat /proc/iomem` shows the name below the device's \
                 BAR"
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = "\
00001000-0009fbff : System RAM
c0000000-febfffff : PCI Bus 0000:00
  d0000000-d1ffffff : PCI Bus 0000:01
    d0000000-d0ffffff : 0000:01:00.0
      d0000000-d02fffff : BOOTFB
    d1000000-d1003fff : 0000:01:00.0
      d1000000-d1003fff : vfio-pci
    d1004000-d1007fff : 0000:01:00.1
      d1004000-d1007fff : xhci-hcd
  fe000000-fe003fff : 0000:02:00.0
fec00000-fec003ff : IOAPIC 0
";

    #[test]
    fn what_lies_in_a_bar_holds_it() {
        let of = |bdf: &str| holders_in(IOMEM, bdf.parse().unwrap());
        assert_eq!(of("0000:01:00.0"), ["BOOTFB"]);
        assert_eq!(of("0000:01:00.1"), ["xhci-hcd"]);
        assert_eq!(of("0000:02:00.0"), [] as [&str; 0]);
        assert_eq!(of("0000:03:00.0"), [] as [&str; 0]);
        assert!(remedy(&of("0000:01:00.0")).contains("drivers/simple-framebuffer/unbind"));
        assert!(remedy(&of("0000:01:00.1")).contains("/proc/iomem"));
    }
}
