//! The CPUs that the subjects have.

use crate::context::fact::{Fact, THROTTLED};
use crate::context::machine::Machine;
use crate::session::cpus::list;

pub(super) fn facts(machine: &Machine) -> Vec<Fact> {
    vec![
        governor(machine),
        siblings(machine),
        isolated(machine),
        throttled(machine),
        load(machine),
    ]
}

/// Documentation/admin-guide/pm/cpufreq.rst.
fn governor(machine: &Machine) -> Fact {
    let name = "governor";
    let all: Vec<(usize, String)> = machine
        .cpus
        .iter()
        .filter_map(|&cpu| Some((cpu, machine.cpu(cpu, "cpufreq/scaling_governor")?)))
        .collect();
    if all.is_empty() {
        return Fact::good(name, "the kernel does not change the CPUs' frequency");
    }
    match all.iter().find(|(_, governor)| governor != "performance") {
        Some((cpu, governor)) => Fact::poor(
            name,
            format!("CPU {cpu} has the governor {governor}, which slows idle CPUs down"),
            "as root: cpupower frequency-set -g performance",
        ),
        None => Fact::good(name, "performance"),
    }
}

/// Documentation/admin-guide/cputopology.rst.
fn siblings(machine: &Machine) -> Fact {
    let name = "smt-sibling";
    for &cpu in &machine.cpus {
        let siblings = machine.cpu(cpu, "topology/thread_siblings_list");
        let siblings = siblings.and_then(|text| list(&text)).unwrap_or_default();
        if let Some(other) = siblings.iter().find(|other| !machine.cpus.contains(other)) {
            return Fact::poor(
                name,
                format!("CPU {cpu} is in one core with CPU {other}, which may have other work"),
                "as root: echo off >/sys/devices/system/cpu/smt/control",
            );
        }
    }
    Fact::good(
        name,
        "no CPU is in one core with a CPU that may have other work",
    )
}

/// Documentation/admin-guide/kernel-parameters.txt, isolcpus=.
fn isolated(machine: &Machine) -> Fact {
    let name = "isolated";
    let isolated = machine.text("sys/devices/system/cpu/isolated");
    let isolated = isolated.and_then(|text| list(&text)).unwrap_or_default();
    let words: Vec<String> = machine.cpus.iter().map(usize::to_string).collect();
    match machine.cpus.iter().find(|cpu| !isolated.contains(cpu)) {
        Some(cpu) => Fact::poor(
            name,
            format!("the scheduler may give CPU {cpu} other work"),
            format!(
                "boot the host with isolcpus=managed_irq,domain,{}",
                words.join(",")
            ),
        ),
        None => Fact::good(name, "the scheduler gives the CPUs no other work"),
    }
}

/// The counters of arch/x86/kernel/cpu/mce/therm_throt.c.
fn throttled(machine: &Machine) -> Fact {
    let counts = machine
        .cpus
        .iter()
        .filter_map(|&cpu| machine.cpu(cpu, "thermal_throttle/core_throttle_count"))
        .filter_map(|count| count.parse::<u64>().ok());
    let counts: Vec<u64> = counts.collect();
    match counts.is_empty() {
        true => Fact::good(
            THROTTLED,
            "the kernel does not count how often heat slows the CPUs",
        ),
        false => Fact::good(
            THROTTLED,
            format!(
                "heat has slowed the CPUs {} times",
                counts.iter().sum::<u64>()
            ),
        ),
    }
}

/// proc_loadavg(5).
fn load(machine: &Machine) -> Fact {
    let name = "load";
    let text = machine.text("proc/loadavg").unwrap_or_default();
    let load = text
        .split(' ')
        .next()
        .and_then(|load| load.parse::<f64>().ok());
    match load {
        Some(load) if load > 0.5 => Fact::poor(
            name,
            format!("the machine has other work: {load} tasks in the last minute"),
            "see what runs: top -o %CPU",
        ),
        Some(load) => Fact::good(name, format!("{load} tasks in the last minute")),
        None => Fact::good(name, "unknown"),
    }
}
