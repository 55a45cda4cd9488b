//! The host's cores as Slurm numbers them.
//!
//! `Cores=` of gres.conf(5) does not have the kernel's numbers of CPUs: Slurm counts cores from 0,
//! socket by socket. Within a socket the cores are in hwloc's order: by NUMA node, and then by
//! their first CPU.

use std::collections::BTreeSet;
use std::fs;

use vmm::hostinfo::sysfs::Sysfs;

/// A core: its CPUs, and the first CPUs of its socket and of its NUMA node, by which cores are
/// ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    pub socket: u32,
    pub node: u32,
    pub cpus: BTreeSet<u32>,
}

/// Reads the cores of this host in Slurm's order.
pub fn read(sysfs: &Sysfs) -> Vec<Core> {
    let system = sysfs.path("devices/system");
    let text = |path: &str| fs::read_to_string(system.join(path)).unwrap_or_default();
    let nodes = list(&text("node/online"));
    let nodes: Vec<_> = nodes
        .iter()
        .map(|n| list(&text(&format!("node/node{n}/cpulist"))))
        .collect();
    let mut cores: Vec<Core> = Vec::new();
    let online = list(&text("cpu/online"));
    let package = |cpu: u32| text(&format!("cpu/cpu{cpu}/topology/physical_package_id"));
    for cpu in &online {
        let cpus = list(&text(&format!(
            "cpu/cpu{cpu}/topology/thread_siblings_list"
        )));
        let cpus = if cpus.is_empty() {
            BTreeSet::from([*cpu])
        } else {
            cpus
        };
        if cores.iter().any(|core| core.cpus.contains(cpu)) {
            continue;
        }
        let own = package(*cpu);
        let socket = online.iter().copied().find(|other| package(*other) == own);
        let node = nodes.iter().find(|node| node.contains(cpu));
        cores.push(Core {
            socket: socket.unwrap_or(*cpu),
            node: node.and_then(|node| node.first().copied()).unwrap_or(0),
            cpus,
        });
    }
    cores.sort_by_key(|core| (core.socket, core.node, core.cpus.first().copied()));
    cores
}

/// The numbers of the cores whose CPUs are all in the list, as ranges; empty if that is each core,
/// or none.
pub fn cores(all: &[Core], local: &str) -> String {
    let local = list(local);
    let near = |core: &Core| core.cpus.iter().all(|cpu| local.contains(cpu));
    let numbers = all.iter().enumerate().filter(|(_, core)| near(core));
    let numbers: Vec<_> = numbers.map(|(number, _)| number).collect();
    if numbers.len() == all.len() {
        return String::new();
    }
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The numbers of a list as the kernel prints it: `0-3,8`.
fn list(text: &str) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse()) {
            // No kernel has more CPUs.
            numbers.extend(first..=u32::min(last, first.saturating_add(8191)));
        }
    }
    numbers
}
