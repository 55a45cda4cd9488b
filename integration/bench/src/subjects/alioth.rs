//! alioth (its `--help`).

use super::arguments::Arguments;
use super::guest::Guest;

/// The arguments for this guest.
pub fn arguments(guest: &Guest<'_>) -> Arguments {
    let mut words = Arguments::default();
    // A guest without initramfs is an ELF image of `crate::tiny`.
    let elf = guest.initrd.is_none();
    words.text(&["boot"]);
    words.path(if elf { "--pvh" } else { "--kernel" }, guest.kernel);
    words.optional("--initramfs", guest.initrd);
    words.cmdline("--cmdline", guest.cmdline);
    words.text(&["--cpu", &format!("count={}", guest.cpus)]);
    words.text(&["--memory", &format!("size={}M", guest.mib)]);
    words
}
