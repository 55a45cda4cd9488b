//! Cloud Hypervisor (its docs/vfio.md).

use super::arguments::Arguments;
use super::guest::Guest;

/// The arguments for this guest.
pub fn arguments(guest: &Guest<'_>) -> Arguments {
    let mut words = Arguments::default();
    words.path("--kernel", guest.kernel);
    words.optional("--initramfs", guest.initrd);
    words.cmdline("--cmdline", guest.cmdline);
    words.text(&["--cpus", &format!("boot={}", guest.cpus)]);
    words.text(&["--memory", &format!("size={}M", guest.mib)]);
    words.text(&["--serial", "tty", "--console", "off"]);
    if !guest.devices.is_empty() {
        words.text(&["--device"]);
    }
    for bdf in guest.devices {
        words.text(&[&format!("path=/sys/bus/pci/devices/{bdf}/")]);
    }
    words
}
