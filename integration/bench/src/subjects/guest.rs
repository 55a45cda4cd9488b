//! The description of a guest, the same for all subjects.

use std::path::Path;

/// The kernel, CPUs, memory and devices of a guest. Each subject translates it to its own
/// arguments.
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
    /// Empty root ports, for mini-vmm only.
    pub empty_ports: u32,
    /// Options after the number of vCPUs, for mini-vmm only: ",idle=native".
    pub cpu_options: &'a str,
    /// Options after the size of the RAM, for mini-vmm only: ",hugepages=2M".
    pub memory_options: &'a str,
}

impl<'a> Guest<'a> {
    /// A guest with this kernel, one vCPU, 512 MiB, and no initramfs and no devices.
    pub fn new(kernel: &'a Path) -> Self {
        Self {
            kernel,
            initrd: None,
            cmdline: "",
            cpus: 1,
            mib: 512,
            devices: &[],
            empty_ports: 0,
            cpu_options: "",
            memory_options: "",
        }
    }
}
