//! `mini-vmm host ...`: what the host has to pass through.

use clap::{Args, Subcommand};
use host::bind::{BindRequest, UnbindRequest};
use vmm::config::{ConfigError, DEFAULT_MEMORY};

/// One of the host's commands. Flags are made, as those of [`super::Command`], when they are asked for.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
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
Mediated devices are below the device that they are made of.

Names come from the list of PCI IDs that pciutils or hwdata installs; without
it there are classes and numbers.
The fields of --json are documented in docs/host.md.")]
    List(ListArgs),

    /// Take devices from the host's drivers, for guests to have (as root)
    #[command(after_help = "\
All of the devices are bound, or none. What each was is kept in /run/mini-vmm,
and `mini-vmm host unbind` makes it that again. What a killed command has left is
mended by the next.")]
    Bind(BindArgs),

    /// Give devices back to the drivers that they had (as root)
    #[command(after_help = "\
Each device that can go back does, whatever becomes of the others.

Exit status: 0, or 1 when one could not, or had never been taken.")]
    Unbind(UnbindArgs),
}

impl HostCommand {
    /// Whether it does more than look.
    pub fn changes_the_host(&self) -> bool {
        match self {
            Self::Check(_) | Self::List(_) => false,
            Self::Bind(args) => !args.dry_run,
            Self::Unbind(args) => !args.dry_run,
        }
    }
}

/// Check whether this host can pass devices through, and say what mends what is amiss
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
        Ok(super::memory::parse(&self.memory)?.size)
    }
}

/// List PCI devices by IOMMU group: what can be passed through, and with what together
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Bridges too, and devices that are in no group
    #[arg(long)]
    pub all: bool,

    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// Take devices from the host's drivers, for guests to have (as root)
#[derive(Debug, Args)]
pub struct BindArgs {
    /// Devices: 01:00.0, 0000:01:00.0 or a path in /sys
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,

    /// Bind the other devices of their IOMMU groups too
    #[arg(long)]
    group: bool,

    /// Take a device that the host is using: a mounted disk, an interface with an address
    #[arg(long)]
    force: bool,

    /// Let this user run guests with the devices, without root
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Make N virtual functions of each device and bind those; the device keeps its driver
    #[arg(long, value_name = "N", conflicts_with = "group",
          value_parser = clap::value_parser!(u32).range(1..=65535))]
    vfs: Option<u32>,

    /// Print the commands that would do the same, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Give devices back to the drivers that they had (as root)
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// Devices: 01:00.0, 0000:01:00.0 or a path in /sys. What was bound along with one by --group,
    /// and the virtual functions that were made of it, go too
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,

    /// Take a device from the guest that has it
    #[arg(long)]
    force: bool,

    /// Print the commands that would do the same, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl From<BindArgs> for BindRequest {
    fn from(args: BindArgs) -> Self {
        Self {
            addresses: args.addresses,
            group: args.group,
            force: args.force,
            user: args.user,
            functions: args.vfs,
            dry_run: args.dry_run,
            owner: None,
        }
    }
}

impl From<UnbindArgs> for UnbindRequest {
    fn from(args: UnbindArgs) -> Self {
        Self {
            addresses: args.addresses,
            force: args.force,
            dry_run: args.dry_run,
        }
    }
}
