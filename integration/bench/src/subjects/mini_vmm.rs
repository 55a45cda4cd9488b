//! This project's VMM.

use super::arguments::Arguments;
use super::guest::Guest;

/// What a mini-vmm can do; an older one than this bench may lack some of it.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// It tells its phases (`--stats`).
    pub stats: bool,
    /// It can be told which pages to take (`--memory`'s `hugepages=`).
    pub hugepages: bool,
    /// Its vCPUs can halt in the guest (`--cpus`'s `idle=`).
    pub idle: bool,
}

impl Abilities {
    /// From what `--help` says.
    pub fn of(help: &str) -> Self {
        Self {
            stats: help.contains("--stats"),
            hugepages: help.contains("hugepages="),
            idle: help.contains("idle="),
        }
    }
}

/// What follows the program's name.
pub fn arguments(guest: &Guest<'_>) -> Arguments {
    let mut words = Arguments::default();
    words.path("--kernel", guest.kernel);
    words.optional("--initrd", guest.initrd);
    words.cmdline("--cmdline", guest.cmdline);
    words.text(&["--cpus", &format!("{}{}", guest.cpus, guest.cpu_options)]);
    words.text(&[
        "--memory",
        &format!("{}M{}", guest.mib, guest.memory_options),
    ]);
    for bdf in guest.devices {
        words.text(&["--vfio", bdf]);
    }
    words
}
