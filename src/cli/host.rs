//! `mini-vmm host ...`: what the host has to pass through.

use clap::Subcommand;

/// One of the host's commands.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List PCI devices by IOMMU group, with the driver that holds each
    List {
        /// Bridges too, and devices that are in no group
        #[arg(long)]
        all: bool,
    },
}
