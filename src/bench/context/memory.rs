//! Nodes of memory, and huge pages.

use crate::context::fact::Fact;
use crate::context::machine::Machine;
use crate::session::cpus::list;

pub(super) fn facts(machine: &Machine) -> Vec<Fact> {
    vec![node(machine), huge_pages(machine)]
}

/// Documentation/ABI/testing/sysfs-bus-pci, numa_node: a negative number means no node.
fn node(machine: &Machine) -> Fact {
    let name = "numa";
    let node = machine
        .device("numa_node")
        .and_then(|n| n.parse::<i32>().ok());
    let Some(node) = node.filter(|node| *node >= 0) else {
        return Fact::good(name, "the device belongs to no node");
    };
    let text = machine.text(&format!("sys/devices/system/node/node{node}/cpulist"));
    let beside = text.as_deref().and_then(list).unwrap_or_default();
    match machine.cpus.iter().find(|cpu| !beside.contains(cpu)) {
        Some(cpu) if !beside.is_empty() => Fact::poor(
            name,
            format!("CPU {cpu} is not on the device's node {node}"),
            format!(
                "mini-vmm-bench {} --cpus {}",
                machine.address,
                text.unwrap_or_default()
            ),
        ),
        _ => Fact::good(name, format!("device and CPUs are on node {node}")),
    }
}

/// Documentation/admin-guide/mm/transhuge.rst.
fn huge_pages(machine: &Machine) -> Fact {
    let name = "huge-pages";
    let text = machine.text("sys/kernel/mm/transparent_hugepage/enabled");
    let text = text.unwrap_or_default();
    match text.split(['[', ']']).nth(1) {
        Some(mode @ ("always" | "madvise")) => {
            Fact::good(name, format!("guests get transparent huge pages ({mode})"))
        }
        _ => Fact::poor(
            name,
            "guests get small pages",
            "as root: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}
