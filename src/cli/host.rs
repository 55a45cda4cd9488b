//! `mini-vmm host ...`: what the host has to pass through.

use clap::{Args, Subcommand};

use crate::host::bind::{BindRequest, UnbindRequest};

/// One of the host's commands.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List PCI devices by IOMMU group, with the driver that holds each
    List {
        /// Bridges too, and devices that are in no group
        #[arg(long)]
        all: bool,
    },

    /// Take devices from the host's drivers, for guests to have (as root)
    #[command(after_help = "\
All of the devices are bound, or none. What each was is kept in /run/mini-vmm,
and `mini-vmm host unbind` makes it that again.")]
    Bind(BindArgs),

    /// Give devices back to the drivers that they had (as root)
    Unbind(UnbindArgs),
}

/// What to bind and how.
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

/// What to give back and how.
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
