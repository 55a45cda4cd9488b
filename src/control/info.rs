//! `vmm.ping` and `vm.info`, with the fields of Cloud Hypervisor's where it has them.

use std::collections::BTreeMap;

use serde::Serialize;
use vmm::control::RunState;
use vmm::hostinfo::name::parse_uuid;
use vmm::log::degraded::{self, Degraded};

use crate::control::summary::VmSummary;
use crate::control::vm::Vm;

/// The answer to `vmm.ping`.
#[derive(Debug, Serialize)]
pub struct Ping {
    build_version: &'static str,
    version: &'static str,
    pid: u32,
    features: [&'static str; 0],
}

impl Ping {
    /// This process.
    pub fn new() -> Self {
        Self {
            build_version: env!("CARGO_PKG_VERSION"),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            features: [],
        }
    }
}

impl Default for Ping {
    fn default() -> Self {
        Self::new()
    }
}

/// The answer to `vm.info`.
#[derive(Serialize)]
pub struct Info<'a> {
    config: Config<'a>,
    state: &'static str,
    memory_actual_size: u64,
    device_tree: BTreeMap<String, Node>,
    pid: u32,
    boots: u64,
    uptime_us: u64,
    last_event: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
    degraded: Vec<Degraded>,
}

#[derive(Serialize)]
struct Config<'a> {
    #[serde(flatten)]
    summary: &'a VmSummary,
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    path: String,
    id: String,
}

#[derive(Serialize)]
struct Node {
    id: String,
    resources: [(); 0],
    children: [(); 0],
    pci_bdf: String,
}

/// What a user of `pause` must know.
const PAUSED: &str = "the vCPUs have stopped, and the devices have not: their DMA goes on and \
                      writes guest memory, and their interrupts gather until the guest resumes";

impl<'a> Info<'a> {
    /// The VM as it is now.
    pub fn new(vm: &'a Vm) -> Self {
        // Read before the rest: a client that asks for the events since this number misses none.
        let last_event = vm.log.last();
        let state = vm.control.state();
        let functions = vm.control.functions();
        let names = functions.iter().map(|(bdf, f)| (*bdf, f.name().to_owned()));
        let names: Vec<_> = names.collect();
        let node = |(bdf, name): &(pci::Bdf, String)| {
            let id = vm.ids.of(name);
            let node = Node {
                id: id.clone(),
                resources: [],
                children: [],
                pci_bdf: bdf.to_string(),
            };
            (id, node)
        };
        let device = |(_, name): &(pci::Bdf, String)| Device {
            path: sysfs_path(name),
            id: vm.ids.of(name),
        };
        Self {
            config: Config {
                summary: &vm.summary,
                devices: names.iter().map(device).collect(),
            },
            state: match state {
                RunState::Running => "Running",
                RunState::Paused => "Paused",
                RunState::Ended => "Shutdown",
            },
            memory_actual_size: vm.summary.memory_size(),
            device_tree: names.iter().map(node).collect(),
            pid: std::process::id(),
            boots: vm.control.events().boots(),
            uptime_us: u64::try_from(vm.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            last_event,
            note: (state == RunState::Paused).then_some(PAUSED),
            degraded: degraded::list(),
        }
    }
}

/// The folder of a device in sysfs.
fn sysfs_path(name: &str) -> String {
    match parse_uuid(name) {
        Some(_) => format!("/sys/bus/mdev/devices/{name}"),
        None => format!("/sys/bus/pci/devices/{name}"),
    }
}
