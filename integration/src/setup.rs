//! The parts that all scenarios share: QEMU, the programs under test, and the kernels. Each part is
//! found or built once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::debian::{self, Root};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::kernel::{Choice, Kernel};
use crate::machine::Machine;
use crate::newer_qemu;
use crate::vmm::{self, Programs};

/// The shared parts. Each part is either ready, or holds the error that explains why it is missing.
#[derive(Debug)]
pub struct Lab {
    /// QEMU and busybox.
    pub host: Result<Host>,
    /// mini-vmm, and the static program for the guest.
    pub programs: Result<Programs>,
    /// The images with Debian's root file systems that were asked for.
    roots: BTreeMap<Root, Result<PathBuf>>,
    kernels: BTreeMap<Choice, Result<Kernel>>,
    /// The host with a QEMU for guests with XSAVE, if a scenario needs one.
    newer: Option<Result<Host>>,
}

impl Lab {
    /// Prepares all parts, with these root file systems of Debian. If the host cannot run the lab,
    /// nothing is downloaded.
    pub fn prepare(choices: &[Choice], roots: &[Root]) -> Self {
        let host = Host::find();
        let kernel = |choice| match &host {
            Ok(_) => Kernel::get(choice),
            Err(error) => Err(error.clone()),
        };
        let image = |root| match &host {
            Ok(_) => debian::image(root),
            Err(error) => Err(error.clone()),
        };
        Self {
            kernels: choices
                .iter()
                .map(|&choice| (choice, kernel(choice)))
                .collect(),
            roots: roots.iter().map(|&root| (root, image(root))).collect(),
            programs: vmm::build(),
            newer: None,
            host,
        }
    }

    /// Prepares a QEMU for guests with XSAVE, too.
    #[must_use]
    pub fn with_newer_qemu(mut self) -> Self {
        let host = self.host.as_ref().map_err(Clone::clone);
        self.newer = Some(host.and_then(newer_qemu::find));
        self
    }

    /// Returns the programs of L0 that a machine needs.
    pub fn host(&self, machine: &Machine) -> Result<&Host> {
        let host = match &self.newer {
            Some(newer) if machine.xsave => newer,
            None if machine.xsave => {
                return Err(Error::failed("the lab did not prepare a newer QEMU"));
            }
            _ => &self.host,
        };
        host.as_ref().map_err(Clone::clone)
    }

    /// Why a root file system that was named to [`Lab::prepare`] is missing.
    pub fn lacks(&self, root: Root) -> Option<Error> {
        self.roots.get(&root)?.clone().err()
    }

    /// Returns a kernel that was named to [`Lab::prepare`].
    pub fn kernel(&self, choice: Choice) -> Result<&Kernel> {
        match self.kernels.get(&choice) {
            Some(kernel) => kernel.as_ref().map_err(Clone::clone),
            None => Err(Error::failed(format!(
                "the scenario uses the kernel {choice:?}, and the lab did not prepare it"
            ))),
        }
    }
}
