//! mini-vmm.

use super::arguments::Arguments;
use super::guest::Guest;

/// The features of a mini-vmm. A version that is older than this bench may lack some of them.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Whether it reports its phases (`--stats`).
    pub stats: bool,
    /// Whether the size of its pages can be chosen (`hugepages=` of `--memory`).
    pub hugepages: bool,
    /// Whether its vCPUs can halt without an exit (`idle=` of `--cpus`).
    pub idle: bool,
    /// Whether it has root ports (`--ports`).
    pub ports: bool,
    /// Whether it has a sandbox, which can be off (`--sandbox`).
    pub sandbox: bool,
}

impl Abilities {
    /// Reads the features from the output of `--help`.
    pub fn of(help: &str) -> Self {
        Self {
            stats: help.contains("--stats"),
            hugepages: help.contains("hugepages="),
            idle: help.contains("idle="),
            ports: help.contains("--ports"),
            sandbox: help.contains("--sandbox"),
        }
    }
}

/// The arguments for this guest.
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
    if guest.empty_ports > 0 {
        words.text(&["--ports", &guest.empty_ports.to_string()]);
    }
    words
}

/// The same without the sandbox.
pub fn unconfined(guest: &Guest<'_>) -> Arguments {
    let mut words = arguments(guest);
    words.text(&["--sandbox", "off"]);
    words
}
