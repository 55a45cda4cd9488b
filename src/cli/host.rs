//! `mini-vmm host ...`: looks at the host's devices, binds them, and gives them back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use host::bind::{BindRequest, UnbindRequest};
use host::cdi::Interface;
use vmm::config::ConfigError;
use vmm::config::memory::{self, DEFAULT_MEMORY, MemoryConfig};
use vmm::config::ports::{self, PortsConfig};
use vmm::hostinfo::device_names::{self, NameError};
use vmm::hostinfo::sysfs::Sysfs;

/// A command of `mini-vmm host`. clap builds the flags of a command only when the command is used,
/// as for [`Command`](crate::cli::Command).
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum HostCommand {
    /// Check whether this host can pass devices through, and name a remedy for each problem
    #[command(after_help = "\
PASS: ready. WARN: passthrough works with a drawback, or after one more step.
FAIL: passthrough does not work. The line below a WARN or FAIL is the remedy.

Exit status: 0, or 1 if a check fails.
The fields of --json are documented in docs/host.md.")]
    Check(CheckArgs),

    /// List PCI devices by IOMMU group, and show which of them can be passed through
    #[command(after_help = "\
A line in the margin joins the devices of one IOMMU group. All of them must be
unbound from host drivers before one of them can be passed through. A device is
\"ready\" if it is bound to vfio-pci and no host driver has another device of
its group. A mediated device is listed below its parent device.

Names come from the list of PCI IDs that pciutils or hwdata installs. Without
that list, devices are shown by class and number.
The fields of --json are documented in docs/host.md.")]
    List(ListArgs),

    /// Unbind devices from host drivers, and bind them to vfio-pci for guests (as root)
    #[command(after_help = "\
If one of the devices cannot be bound, nothing is changed. /run/mini-vmm holds
the earlier state of each device, and `mini-vmm host unbind` restores it. If the
command is killed, the next `host bind` or `host unbind` undoes its changes.")]
    Bind(BindArgs),

    /// Give devices back to their earlier drivers (as root)
    #[command(after_help = "\
If one of the devices cannot be given back, the others still are.

Exit status: 0, or 1 if a device could not be given back or was not bound.")]
    Unbind(UnbindArgs),

    /// Give back the devices of runs and commands that were killed (as root)
    #[command(after_help = "\
Each `host bind`, `host unbind` and run with managed=on does this first. A
service manager does it after a run that it had to kill.")]
    Recover,

    /// Print the specification by which container engines give bound devices to containers (CDI)
    #[command(after_help = "\
There is one CDI device for each IOMMU group, or for each device node with
iommufd, named by the device's address; all have /dev/kvm. A container gets the
nodes, and a guest in it the device:
  mini-vmm host cdi --output /etc/cdi/mini-vmm.json
  podman run --device mini-vmm.dev/vfio=0000:01:00.0 --ulimit memlock=-1:-1 ...

CDI cannot set the container's limit of locked memory, which must be above the
guest's memory. Names of nodes can change at a boot: write the file again then.")]
    Cdi(CdiArgs),

    /// Print or write what Slurm needs to give devices that are bound at each boot to jobs
    #[command(after_help = "\
The files are lines for slurm.conf and gres.conf, a prolog that gives a job's
user the nodes of the job's devices, an epilog that takes them back and resets
the devices, a task prolog that sets MINI_VMM_DEVICE, and an example of a job:
  mini-vmm host bind 0000:01:00.0 --persist
  mini-vmm host slurm --output /etc/slurm/vfio

See docs/fleet.md.")]
    Slurm(SlurmArgs),
}

impl HostCommand {
    /// Replaces the names of devices by their addresses.
    ///
    /// # Errors
    /// A text has the form of a name, and is none of this host.
    pub fn resolve(mut self) -> Result<Self, NameError> {
        let addresses = match &mut self {
            Self::Check(args) => &mut args.addresses,
            Self::List(_) | Self::Recover | Self::Cdi(_) | Self::Slurm(_) => return Ok(self),
            Self::Bind(args) => &mut args.addresses,
            Self::Unbind(args) => &mut args.addresses,
        };
        for address in addresses {
            let names = Path::new(device_names::FILE);
            *address = device_names::resolve(names, &Sysfs::default(), address)?;
        }
        Ok(self)
    }

    /// Whether the command changes the host.
    pub fn changes_the_host(&self) -> bool {
        match self {
            Self::Check(_) | Self::List(_) | Self::Cdi(_) | Self::Slurm(_) => false,
            Self::Recover => true,
            Self::Bind(args) => !args.dry_run,
            Self::Unbind(args) => !args.dry_run,
        }
    }
}

/// Check whether this host can pass devices through, and name a remedy for each problem
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Devices: 01:00.0, 0000:01:00.0, a path in /sys, or a name in /etc/mini-vmm/devices.toml
    #[arg(value_name = "ADDR")]
    pub addresses: Vec<String>,

    /// Memory of the guest, as for a run
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MEMORY, allow_hyphen_values = true)]
    memory: String,

    /// Empty root ports of the guest, as for a run: whether they fit, and whether each device could
    /// be added to one
    #[arg(long, value_name = "N[,OPTION...]", value_parser = ports::check_count)]
    ports: Option<String>,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Reads a number of virtual functions, as a PCI register holds it: 1 to 65535, in digits.
fn number_of_functions(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number
        .filter(|number| (1..=65535).contains(number))
        .ok_or_else(|| format!("`{text}` is not a number from 1 to 65535"))
}

impl CheckArgs {
    /// The guest's memory.
    ///
    /// # Errors
    /// The size or an option is invalid.
    pub fn memory(&self) -> Result<MemoryConfig, ConfigError> {
        Ok(memory::parse(&self.memory)?)
    }

    /// The guest's empty root ports.
    ///
    /// # Errors
    /// An option is invalid.
    pub fn ports(&self) -> Result<Option<PortsConfig>, ConfigError> {
        Ok(self.ports.as_deref().map(ports::parse).transpose()?)
    }
}

/// List PCI devices by IOMMU group, and show which of them can be passed through
#[derive(Debug, Args)]
pub struct ListArgs {
    /// List bridges, and devices without an IOMMU group, too
    #[arg(long)]
    pub all: bool,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Unbind devices from host drivers, and bind them to vfio-pci for guests (as root)
#[derive(Debug, Args)]
pub struct BindArgs {
    /// Devices: 01:00.0, 0000:01:00.0, a path in /sys, or a name in /etc/mini-vmm/devices.toml
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,

    /// Also bind the other devices of the IOMMU groups
    #[arg(long)]
    group: bool,

    /// Bind a device even if the host uses it: a mounted disk, an interface with an address, an
    /// open node
    #[arg(long)]
    force: bool,

    /// Let this user run guests with the devices, without root
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Bind the devices at each boot too: a rule of udev, and where initramfs-tools is installed a
    /// hook that puts the rule into the initramfs
    #[arg(long)]
    persist: bool,

    /// Make N virtual functions of each device and bind these; the device keeps its driver
    #[arg(long, value_name = "N", conflicts_with_all = ["group", "persist"],
          value_parser = number_of_functions)]
    vfs: Option<u32>,

    /// Print the equivalent shell commands, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// How long a call of the kernel may take before the command ends and leaves the call alone
    #[arg(long, value_name = "SECONDS", default_value = "10",
          value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl BindArgs {
    /// How long a call of the kernel may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// Give devices back to their earlier drivers (as root)
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// Devices: 01:00.0, 0000:01:00.0, a path in /sys, or a name in /etc/mini-vmm/devices.toml.
    /// Also gives back devices that --group bound along with these, and virtual functions that
    /// --vfs made of these
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,

    /// Take a device away from a running guest
    #[arg(long)]
    force: bool,

    /// Undo --persist of `host bind` too: the host's driver has the devices at each boot
    #[arg(long)]
    persist: bool,

    /// Print the equivalent shell commands, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// How long a call of the kernel may take before the command ends and leaves the call alone
    #[arg(long, value_name = "SECONDS", default_value = "10",
          value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

/// Print the specification by which container engines give bound devices to containers (CDI)
#[derive(Debug, Args)]
pub struct CdiArgs {
    /// The interface that the guests use; auto means iommufd if the host has it and a node for each
    /// device, otherwise container
    #[arg(long, value_name = "KIND", default_value = "auto",
          value_parser = ["auto", "container", "iommufd"])]
    iommu: String,

    /// Write the specification to this file
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl CdiArgs {
    /// The interface; `None` for the one that a run would use.
    pub fn interface(&self) -> Option<Interface> {
        match self.iommu.as_str() {
            "container" => Some(Interface::Container),
            "iommufd" => Some(Interface::Iommufd),
            _ => None,
        }
    }
}

/// Print or write what Slurm needs to give devices that are bound at each boot to jobs
#[derive(Debug, Args)]
pub struct SlurmArgs {
    /// The interface that the guests use. With iommufd, the users need access to /dev/iommu
    #[arg(long, value_name = "KIND", default_value = "container",
          value_parser = ["container", "iommufd"])]
    iommu: String,

    /// Slurm's name of this host [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Write the files to this folder; without it, they are printed as for /etc/slurm/vfio
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

impl SlurmArgs {
    /// The interface.
    pub fn interface(&self) -> Interface {
        match self.iommu.as_str() {
            "iommufd" => Interface::Iommufd,
            _ => Interface::Container,
        }
    }

    /// The name of the host without its domain, as slurmd takes it, or the given one.
    pub fn node(&self) -> String {
        let own = || {
            let name = rustix::system::uname();
            let name = name.nodename().to_string_lossy().into_owned();
            name.split('.').next().unwrap_or_default().to_owned()
        };
        self.node.clone().unwrap_or_else(own)
    }
}

impl UnbindArgs {
    /// How long a call of the kernel may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

impl From<BindArgs> for BindRequest {
    fn from(args: BindArgs) -> Self {
        Self {
            addresses: args.addresses,
            group: args.group,
            force: args.force,
            user: args.user,
            functions: args.vfs,
            persist: args.persist,
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
            persist: args.persist,
            dry_run: args.dry_run,
        }
    }
}
