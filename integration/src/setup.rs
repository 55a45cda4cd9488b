//! What all scenarios share, found or built once: QEMU, the programs under test, and the kernels.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::kernel::{Choice, Kernel};
use crate::vmm::{self, Programs};

/// Each part is ready, or holds the error that says why it is missing.
#[derive(Debug)]
pub struct Lab {
    /// QEMU and busybox.
    pub host: Result<Host>,
    /// mini-vmm, and the guest's own program.
    pub programs: Result<Programs>,
    kernels: BTreeMap<Choice, Result<Kernel>>,
}

impl Lab {
    /// Prepares all parts. A host that cannot run the lab downloads no kernels.
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

    /// A kernel that [`Lab::prepare`] was asked for.
    pub fn kernel(&self, choice: Choice) -> Result<&Kernel> {
        match self.kernels.get(&choice) {
            Some(kernel) => kernel.as_ref().map_err(Clone::clone),
            None => Err(Error::failed(format!(
                "the scenario uses the kernel {choice:?}, and the lab did not prepare it"
            ))),
        }
    }
}
