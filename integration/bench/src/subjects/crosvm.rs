//! crosvm (its `--help`).

use super::arguments::Arguments;
use super::guest::Guest;

/// The arguments for this guest.
pub fn arguments(guest: &Guest<'_>) -> Arguments {
    let mut words = Arguments::default();
    words.text(&["run", "--disable-sandbox"]);
    words.text(&["--cpus", &guest.cpus.to_string()]);
    words.text(&["--mem", &guest.mib.to_string()]);
    words.text(&["--serial", "type=stdout,hardware=serial,num=1,console=true"]);
    words.optional("--initrd", guest.initrd);
    words.cmdline("--params", guest.cmdline);
    for bdf in guest.devices {
        words.text(&["--vfio", &format!("/sys/bus/pci/devices/{bdf}")]);
    }
    words.bare_path(guest.kernel);
    words
}
