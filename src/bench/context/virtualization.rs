//! What the kernel does for guests.

use crate::context::fact::Fact;
use crate::context::machine::Machine;

pub(super) fn facts(machine: &Machine) -> Vec<Fact> {
    vec![
        iommu(machine),
        iommu_events(machine),
        interrupts(machine),
        mitigations(machine),
    ]
}

/// Documentation/ABI/testing/sysfs-kernel-iommu_groups, type.
fn iommu(machine: &Machine) -> Fact {
    let name = "iommu";
    match machine.device("iommu_group/type").as_deref() {
        Some("identity") => Fact::poor(
            name,
            "the host's driver works without the IOMMU, and a guest never does",
            "boot the host with iommu.passthrough=0",
        ),
        Some("DMA") => Fact::poor(
            name,
            "the host's driver waits for the IOMMU at each unmap (strict), and a guest does not",
            "boot the host with iommu.strict=0",
        ),
        Some(mode) => Fact::good(name, format!("mode {mode} for the host's driver")),
        None => Fact::good(name, "unknown"),
    }
}

/// The counters of IOMMUs (Intel's `dmar`, AMD's `amd_iommu`) among the kernel's event sources.
fn iommu_events(machine: &Machine) -> Fact {
    let mut pmus = machine.names("sys/bus/event_source/devices");
    pmus.retain(|name| name.starts_with("dmar") || name.starts_with("amd_iommu"));
    let text = match pmus.as_slice() {
        [] => "no PMU of an IOMMU in this kernel".to_owned(),
        pmus => format!(
            "{} can count them, and this program does not: perf list",
            pmus.join(", ")
        ),
    };
    Fact::good("iommu events", text)
}

/// Interrupts that reach a running guest without an exit: Intel's APICv with posted interrupts,
/// AMD's AVIC.
fn interrupts(machine: &Machine) -> Fact {
    let name = "interrupts";
    let processor = machine.text("proc/cpuinfo").unwrap_or_default();
    let (module, parameter, words) = match processor.contains("GenuineIntel") {
        true => ("kvm_intel", "enable_apicv", "posted interrupts (APICv)"),
        false => ("kvm_amd", "avic", "AVIC"),
    };
    let value = machine.text(&format!("sys/module/{module}/parameters/{parameter}"));
    match value.as_deref() {
        Some("Y" | "1") => Fact::good(name, format!("KVM uses {words}")),
        Some(_) => Fact::poor(
            name,
            format!("KVM does not use {words}: each interrupt of the device is an exit"),
            format!("as root: modprobe -r {module}; modprobe {module} {parameter}=1"),
        ),
        None => Fact::good(name, "unknown"),
    }
}

/// Documentation/ABI/testing/sysfs-devices-system-cpu, vulnerabilities.
fn mitigations(machine: &Machine) -> Fact {
    let dir = "sys/devices/system/cpu/vulnerabilities";
    let mut on = Vec::new();
    for name in machine.names(dir) {
        let text = machine.text(&format!("{dir}/{name}")).unwrap_or_default();
        if text.starts_with("Mitigation") {
            on.push(name);
        }
    }
    let text = match on.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    Fact::good("mitigations", text)
}
