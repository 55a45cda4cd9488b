//! `mini-vmm host ...`: looks at the host's devices, binds them, and gives them back.

use clap::{Args, Subcommand};
use host::bind::{BindRequest, UnbindRequest};
use vmm::config::ConfigError;
use vmm::config::memory::{self, DEFAULT_MEMORY};

/// A command of `mini-vmm host`. clap builds the flags of a command only when the command is used,
/// as for [`Command`](crate::cli::Command).
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum HostCommand {
    /// Check whether this host can pass devices through, and name a remedy for each problem
    #[command(after_help = "\
PASS: ready. WARN: passthrough works, or will after one more step. FAIL:
passthrough will not work. The line below a WARN or FAIL names the remedy.

Exit status: 0, or 1 when something fails.
The fields of --json are documented in docs/host.md.")]
    Check(CheckArgs),

    /// List PCI devices by IOMMU group: what can be passed through, and with what together
    #[command(after_help = "\
A line in the margin joins the devices of one IOMMU group. Before one of them
is passed through, all of them must leave their host drivers. A device is
\"ready\" when vfio-pci has it and no host driver has another one of its group.
A mediated device stands below its parent device.

Names come from the list of PCI IDs that pciutils or hwdata installs. Without
that list, devices are shown by class and number.
The fields of --json are documented in docs/host.md.")]
    List(ListArgs),

    /// Take devices from the host's drivers, for guests to have (as root)
    #[command(after_help = "\
All of the devices are bound, or none. /run/mini-vmm records the state of each
device before, and `mini-vmm host unbind` restores that state. If the command is
killed, the next `host bind` or `host unbind` cleans up after it.")]
    Bind(BindArgs),

    /// Give devices back to the drivers that they had (as root)
    #[command(after_help = "\
Each device that can be given back is given back, even if others cannot.

Exit status: 0, or 1 when one could not, or had never been taken.")]
    Unbind(UnbindArgs),
}

impl HostCommand {
    /// Whether the command changes the host.
    pub fn changes_the_host(&self) -> bool {
        match self {
            Self::Check(_) | Self::List(_) => false,
            Self::Bind(args) => !args.dry_run,
            Self::Unbind(args) => !args.dry_run,
        }
    }
}

/// Check whether this host can pass devices through, and name a remedy for each problem
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Devices: 01:00.0, 0000:01:00.0 or a path in /sys
    #[arg(value_name = "ADDR")]
    pub addresses: Vec<String>,

    /// Memory of the guest, as for a run
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MEMORY, allow_hyphen_values = true)]
    memory: String,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

impl CheckArgs {
    /// The guest's memory in bytes.
    ///
    /// # Errors
    /// The size is invalid.
    pub fn memory(&self) -> Result<u64, ConfigError> {
        Ok(memory::parse(&self.memory)?.size)
    }
}

/// List PCI devices by IOMMU group: what can be passed through, and with what together
#[derive(Debug, Args)]
pub struct ListArgs {
    /// List bridges, and devices without an IOMMU group, too
    #[arg(long)]
    pub all: bool,

    /// Print JSON, for programs
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

    /// Take a device even if the host is using it: a mounted disk, an interface with an address
    #[arg(long)]
    force: bool,

    /// Let this user run guests with the devices, without root
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Make N virtual functions of each device and bind those; the device keeps its driver
    #[arg(long, value_name = "N", conflicts_with = "group",
          value_parser = clap::value_parser!(u32).range(1..=65535))]
    vfs: Option<u32>,

    /// Print the equivalent shell commands, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Give devices back to the drivers that they had (as root)
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// Devices: 01:00.0, 0000:01:00.0 or a path in /sys. Devices that --group bound along with one,
    /// and virtual functions that --vfs made of one, are included
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,

    /// Take a device away from a running guest
    #[arg(long)]
    force: bool,

    /// Print the equivalent shell commands, and change nothing
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
