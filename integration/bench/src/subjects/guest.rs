//! The guest, the same for all subjects.

use std::path::Path;

/// What a VMM is told about its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// Kernel: an ELF with a PVH note, or a bzImage.
    pub kernel: &'a Path,
    /// Initial RAM file system.
    pub initrd: Option<&'a Path>,
    /// Kernel parameters.
    pub cmdline: &'a str,
    /// vCPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub mib: u32,
    /// PCI addresses of devices to pass through.
    pub devices: &'a [&'a str],
    /// What follows the number of vCPUs, for mini-vmm alone: ",idle=native".
    pub cpu_options: &'a str,
    /// What follows the size of RAM, for mini-vmm alone: ",hugepages=2M".
    pub memory_options: &'a str,
}

impl<'a> Guest<'a> {
    /// One vCPU, 512 MiB, and nothing but a kernel.
    pub fn new(kernel: &'a Path) -> Self {
        Self {
            kernel,
            initrd: None,
            cmdline: "",
            cpus: 1,
            mib: 512,
            devices: &[],
            cpu_options: "",
            memory_options: "",
        }
    }
}
