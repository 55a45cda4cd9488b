//! `mini-vmm ctl PATH VERB`: asks a running guest's mini-vmm, or changes the guest.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Ask or change a running guest, through the socket of its --api-socket
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The socket, as the run's --api-socket names it
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    #[command(subcommand)]
    pub verb: Verb,
}

/// A request. clap builds the flags of a verb only when the verb is used, as for
/// [`Command`](crate::cli::Command).
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Verb {
    /// Show the guest's state, its configuration and its devices
    Info {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },

    /// Show the guest's PCI functions: BARs and where they are, interrupts, DMA maps
    #[command(after_help = "\
A part of a BAR is `direct` if the guest reaches it without an exit. A vector
shows its message as the guest wrote it and what it means, the GSI and the
eventfd of its irqfd, and whether KVM listens to it.")]
    Pci {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },

    /// Show how often the guest left to mini-vmm and why, and more with --stats
    #[command(after_help = "\
The counters are those of SIGUSR1 and, if the run has --stats, of its report.
Counters that are zero are left out, except from --json.")]
    Counters {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },

    /// Stop the guest's vCPUs
    #[command(after_help = "\
Only the vCPUs stop. The devices go on: DMA that was asked for still reaches the
guest's memory, and interrupts gather until the guest resumes. A Linux guest's
watchdogs are told of the pause when it ends.

SIGTERM, SIGUSR1, Ctrl-A x and the other verbs work during a pause.")]
    Pause,

    /// Let the guest's vCPUs go on after a pause
    Resume,

    /// Reset the guest and its devices, and boot again, as a reset button does
    #[command(after_help = "\
The guest is not asked. The vCPUs run afterwards, even if the guest was paused.
With --no-reboot the run ends.")]
    Reboot,

    /// Add a device to the guest while it runs, into an empty root port of --ports
    #[command(after_help = "\
ADDR and its options are those of --vfio, a name in /etc/mini-vmm/devices.toml
too; fd=N is a file in /dev/vfio/devices
that this command has open, and that mini-vmm gets. Several ADDR are functions
of one device of the host.

The device must be bound to vfio-pci, or have `managed=on`. If this command is
ended before the device is added, the add is undone.

Example:
  sudo mini-vmm host bind 0000:01:00.0 --user $USER
  mini-vmm ctl /run/user/1000/guest.sock add 0000:01:00.0")]
    Add(AddArgs),

    /// Ask the guest for a device, and wait until the device is the host's again
    #[command(after_help = "\
The slot's attention button is pressed once. The guest's driver lets go of the
device, and the guest turns the slot's power off; Linux waits five seconds
before. If the guest has not done so in time, the device stays with the guest,
and this command ends with status 1.

With --force the guest is not asked: it loses the device at once. It may lose
data too, as after a cable was pulled.

Example:
  mini-vmm ctl /run/user/1000/guest.sock remove 0000:01:00.0")]
    Remove(RemoveArgs),

    /// Press the guest's power button: its system shuts down, if it listens
    #[command(after_help = "\
The guest decides what the button does. Linux reports the press to systemd, or
to acpid; without either, nothing happens. Ctrl-A p is the same.")]
    PowerButton,

    /// End the run, as SIGTERM does; the guest is not asked
    Shutdown,

    /// Print what happens, one line for each event, until the run ends
    #[command(after_help = "\
Events: guest-reset, paused, resumed, shutdown, degraded (a loss of the guest,
with its code), device-adding, device-added, device-removed, device-failed. A
reader that is more than 1024 events behind gets `lost` with their number, and
is disconnected.")]
    Events(EventsArgs),
}

/// Add a device to the guest while it runs, into an empty root port of --ports
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The device, as --vfio names it; more functions of the same device may follow
    #[arg(value_name = "ADDR[,OPTION]...", required = true)]
    pub devices: Vec<String>,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Ask the guest for a device, and wait until the device is the host's again
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The device's address on the host, or its id
    #[arg(value_name = "ADDR")]
    pub id: String,

    /// How long the guest may take [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,

    /// Take the device without asking the guest
    #[arg(long, conflicts_with = "timeout")]
    pub force: bool,
}

/// Print what happens, one line for each event, until the run ends
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Begin after the event with this number; 0 begins with the first [only new events]
    #[arg(long, value_name = "NUMBER")]
    pub since: Option<u64>,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}
