//! `vm.counters`: the counters of `--stats`, in the form of Cloud Hypervisor's: groups of integers.
//! Without `--stats`, only what is counted anyway.

use std::collections::BTreeMap;

use vmm::log::phases::{Clock, Phases};
use vmm::stats::devices::Calls;
use vmm::stats::kvm::{Counters as OfKvm, Value};

use crate::control::vm::Vm;
use crate::report::{ByReason, Report};

/// Counters by group and name.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// Reads the counters.
pub fn counters(vm: &Vm) -> Counters {
    let phases = vm.phases.clone();
    let none = || Phases::new(Clock::start());
    let report = Report::new(&vm.stats, &phases.unwrap_or_else(none));
    let mut counters = Counters::new();
    let mut add = |group: &str, name: &str, count: u64| {
        // Cloud Hypervisor's are signed.
        let count = count.min(i64::MAX.unsigned_abs());
        let group = counters.entry(group.into()).or_default();
        *group.entry(name.into()).or_default() += count;
    };
    add("exits", "total", report.exits.total);
    add("exits", "coalesced_writes", report.exits.coalesced_writes);
    reasons("exits", &report.exits.by_reason, &mut add);
    for (id, vcpu) in report.exits.vcpus.iter().enumerate() {
        reasons(&format!("vcpu{id}"), vcpu, &mut add);
    }
    for (group, maps) in [("dma_ram", &report.dma.ram), ("dma_bars", &report.dma.bars)] {
        add(group, "maps", maps.maps);
        add(group, "bytes", maps.bytes);
        add(group, "us", maps.us);
    }
    let in_use = vm.control.in_use();
    add("in_use", "memory_slots", in_use.memory_slots as u64);
    add("in_use", "gsis", in_use.gsis as u64);
    if vm.stats.is_detailed() {
        detailed(&report, &mut add);
    }
    counters
}

fn reasons(group: &str, counts: &ByReason, add: &mut impl FnMut(&str, &str, u64)) {
    for (name, count) in counts {
        add(group, name, *count);
    }
}

/// What is counted with `--stats` only.
fn detailed(report: &Report, add: &mut impl FnMut(&str, &str, u64)) {
    let access = |write| if write { "write" } else { "read" };
    for register in &report.exits.registers {
        let (space, address, access) = (register.space, &register.address, access(register.write));
        add(
            "registers",
            &format!("{space} {address} {access}"),
            register.count,
        );
    }
    add("registers", "others", report.exits.other_registers);
    for r in &report.config_space.registers {
        let name = format!("{} {} {}", r.function, r.register, access(r.write));
        add("config_space", &name, r.count);
    }
    add("config_space", "others", report.config_space.others);
    of_kvm("kvm", &report.kvm.vm, add);
    for (id, counters) in report.kvm.vcpus.iter().enumerate() {
        of_kvm(&format!("kvm_vcpu{id}"), counters, add);
    }
    for v in &report.interrupts {
        let name = format!("{} {} {}", v.device, v.kind, v.vector);
        add("interrupts", &name, v.interrupts);
    }
    for device in &report.devices {
        let mut calls = |name: &str, calls: &Calls| {
            add(&device.device, name, calls.calls);
            add(&device.device, &format!("{name}_us"), calls.us);
        };
        calls("resets", &device.resets);
        calls("set_irqs", &device.set_irqs);
        add(
            &device.device,
            "wakeups_delivered",
            device.wakeups.delivered,
        );
        add(&device.device, "wakeups_unmasked", device.wakeups.unmasked);
    }
    if let Some(memory) = &report.memory {
        add("memory", "private_bytes", memory.private_bytes);
        add("memory", "private_dirty_bytes", memory.private_dirty_bytes);
        add("memory", "resident_bytes", memory.resident_bytes);
        add(
            "memory",
            "guest_resident_bytes",
            memory.guest_resident_bytes,
        );
    }
    for phase in &report.phases {
        let device = phase.device.as_ref();
        let device = device.map(|d| format!(" {d}")).unwrap_or_default();
        let took = phase.end_us.saturating_sub(phase.start_us);
        add("phases_us", &format!("{}{device}", phase.name), took);
    }
}

/// KVM's plain counters; a histogram is no counter.
fn of_kvm(group: &str, counters: &OfKvm, add: &mut impl FnMut(&str, &str, u64)) {
    for (name, value) in counters {
        if let Value::Number(count) = value {
            add(group, name, *count);
        }
    }
}
