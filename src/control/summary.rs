//! The guest's configuration as a client sees it, with Cloud Hypervisor's names.

use std::path::PathBuf;

use serde::Serialize;
use vmm::config::VmConfig;
use vmm::config::memory::Pages;

/// What does not change in a run: the guest's configuration.
#[derive(Clone, Debug, Serialize)]
pub struct VmSummary {
    cpus: Cpus,
    memory: Memory,
    payload: Payload,
}

#[derive(Clone, Debug, Serialize)]
struct Cpus {
    boot_vcpus: u32,
    max_vcpus: u32,
    topology: Topology,
    nested: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    affinity: Vec<Affinity>,
}

#[derive(Clone, Debug, Serialize)]
struct Topology {
    threads_per_core: u32,
    cores_per_die: u32,
    dies_per_package: u32,
    packages: u32,
}

#[derive(Clone, Debug, Serialize)]
struct Affinity {
    vcpu: usize,
    host_cpus: [usize; 1],
}

#[derive(Clone, Debug, Serialize)]
struct Memory {
    size: u64,
    shared: bool,
    hugepages: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hugepage_size: Option<u64>,
    prefault: bool,
    thp: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Payload {
    kernel: PathBuf,
    cmdline: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    initramfs: Option<PathBuf>,
}

impl VmSummary {
    /// The parts of `config` that a client sees.
    pub fn new(config: &VmConfig) -> Self {
        let cpus = config.cpus.topology;
        let per_socket = cpus.threads_per_socket();
        let pins = config.cpus.pin.iter().enumerate();
        let (memory, pages) = (&config.memory, config.memory.pages);
        let size = match pages {
            Pages::Huge(page) => Some(page.size()),
            Pages::Small | Pages::Transparent => None,
        };
        Self {
            cpus: Cpus {
                boot_vcpus: cpus.cpus(),
                max_vcpus: cpus.cpus(),
                topology: Topology {
                    threads_per_core: cpus.threads(),
                    cores_per_die: per_socket / cpus.threads().max(1),
                    dies_per_package: 1,
                    packages: cpus.cpus() / per_socket.max(1),
                },
                nested: config.cpus.nested,
                affinity: pins
                    .map(|(vcpu, cpu)| Affinity {
                        vcpu,
                        host_cpus: [*cpu],
                    })
                    .collect(),
            },
            memory: Memory {
                size: memory.size,
                shared: memory.shared,
                hugepages: size.is_some(),
                hugepage_size: size,
                prefault: memory.prefault.unwrap_or(!config.vfio.is_empty()),
                thp: pages == Pages::Transparent,
            },
            payload: Payload {
                kernel: config.kernel.clone(),
                cmdline: config.cmdline.clone(),
                initramfs: config.initrd.clone(),
            },
        }
    }

    /// Bytes of RAM.
    pub fn memory_size(&self) -> u64 {
        self.memory.size
    }
}
