//! The flags of `mini-vmm explain ...`.

use std::path::PathBuf;

use clap::Args;
use vmm::config::{ConfigError, VmConfig};
use vmm::sandbox::Choice;

use crate::cli::run::GuestArgs;

/// Show what a run would do with its devices, without starting a VM
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Kernel that the run would boot; explain checks whether it fits
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,

    #[command(flatten)]
    guest: GuestArgs,

    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

impl ExplainArgs {
    /// What confines the threads of the run.
    pub fn sandbox(&self) -> Choice {
        self.guest.sandbox()
    }

    /// The user of the run, if that is to change.
    pub fn run_as(&self) -> Option<&str> {
        self.guest.run_as()
    }

    /// Makes the configuration of the VM that the flags describe. Without `--kernel`, the kernel's
    /// path is empty.
    ///
    /// # Errors
    /// A memory size or an option of a device is invalid.
    pub fn into_config(self) -> Result<VmConfig, ConfigError> {
        self.guest.into_config(self.kernel.unwrap_or_default())
    }
}
