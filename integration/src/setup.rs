//! The parts that all scenarios share: QEMU, the programs under test, and the kernels. Each part is
//! found or built once.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::kernel::{Choice, Kernel};
use crate::vmm::{self, Programs};

/// The shared parts. Each part is either ready, or holds the error that explains why it is missing.
#[derive(Debug)]
pub struct Lab {
    /// QEMU and busybox.
    pub host: Result<Host>,
    /// mini-vmm, and the static program for the guest.
    pub programs: Result<Programs>,
    kernels: BTreeMap<Choice, Result<Kernel>>,
}

impl Lab {
    /// Prepares all parts. If the host cannot run the lab, no kernel is downloaded.
    pub fn prepare(choices: &[Choice]) -> Self {
        let host = Host::find();
        let kernel = |choice| match &host {
            Ok(_) => Kernel::get(choice),
            Err(error) => Err(error.clone()),
        };
        Self {
            kernels: choices
                .iter()
                .map(|&choice| (choice, kernel(choice)))
                .collect(),
            programs: vmm::build(),
            host,
        }
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
