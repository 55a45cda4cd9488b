//! `mini-vmm host ...`: what the host has to pass through.

use clap::{Args, Subcommand};

use crate::config::{self, ConfigError, DEFAULT_MEMORY};

/// One of the host's commands.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Check whether this host can pass devices through, and say what mends what is amiss
    #[command(after_help = "\
PASS: as it should be. WARN: it works, or will after a step that is still to
be taken. FAIL: it will not work. The line below says what mends it.

Exit status: 0, or 1 when something fails.
The fields of --json are documented in docs/host.md.")]
    Check(CheckArgs),

    /// List PCI devices by IOMMU group: what can be passed through, and with what together
    #[command(after_help = "\
Devices of one group are joined by a line in the margin: a guest gets all of
them, or none is left to a driver of the host's. A device is \"ready\" when
vfio-pci has it and nothing else of its group is in the host's hands.

Names come from the list of PCI IDs that pciutils or hwdata installs; without
it there are classes and numbers.
The fields of --json are documented in docs/host.md.")]
    List(ListArgs),
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Devices: 01:00.0, 0000:01:00.0 or a path in /sys
    #[arg(value_name = "ADDR")]
    pub addresses: Vec<String>,

    /// Memory that the guest is to have, as for a run
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MEMORY, allow_hyphen_values = true)]
    memory: String,

    /// For programs
    #[arg(long)]
    pub json: bool,
}

impl CheckArgs {
    /// The guest's memory in bytes.
    ///
    /// # Errors
    /// A size that is none.
    pub fn memory(&self) -> Result<u64, ConfigError> {
        Ok(config::parse_memory(&self.memory)?)
    }
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Bridges too, and devices that are in no group
    #[arg(long)]
    pub all: bool,

    /// For programs
    #[arg(long)]
    pub json: bool,
}
