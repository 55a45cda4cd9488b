//! Chapter 14: the calls of a VMM with a device, in an order that Linux takes.

use std::path::Path;

use crate::check::answer::read;

const SLOT: &str = "KVM_SET_USER_MEMORY_REGION";

/// A call, one that must come before it, and why.
const RULES: [(&str, &str, &str); 12] = [
    (
        "KVM_CREATE_IRQCHIP",
        "KVM_CREATE_VM",
        "the interrupt controllers are the VM's",
    ),
    (
        "KVM_IRQFD",
        "KVM_CREATE_IRQCHIP",
        "KVM has nobody to give an interrupt to",
    ),
    (
        "KVM_CREATE_VCPU",
        "KVM_CREATE_IRQCHIP",
        "a processor gets its local APIC when it is made",
    ),
    (
        "VFIO_SET_IOMMU",
        "VFIO_GROUP_SET_CONTAINER",
        "a container without a group has no IOMMU",
    ),
    (
        "VFIO_GROUP_GET_DEVICE_FD",
        "VFIO_SET_IOMMU",
        "no device is given out without a table between it and memory",
    ),
    (
        "VFIO_IOMMU_MAP_DMA",
        "VFIO_SET_IOMMU",
        "there is no table yet",
    ),
    (
        "VFIO_DEVICE_GET_REGION_INFO",
        "VFIO_GROUP_GET_DEVICE_FD",
        "it is a call on the device's file",
    ),
    (
        "VFIO_DEVICE_SET_IRQS",
        "VFIO_GROUP_GET_DEVICE_FD",
        "it is a call on the device's file",
    ),
    (
        "mmap",
        "VFIO_DEVICE_GET_REGION_INFO",
        "nobody knows where the BAR is in the file",
    ),
    (
        SLOT,
        "mmap",
        "a slot gives the guest memory of this process, and the BAR is none yet",
    ),
    (SLOT, "KVM_CREATE_VM", "a slot is the VM's"),
    (
        "KVM_RUN",
        "KVM_CREATE_VCPU",
        "it is a call on a processor's file",
    ),
];

/// Checks the order of the calls in a file.
///
/// # Errors
/// What to look at next.
pub fn check(answer: &Path) -> Result<(), String> {
    let text = read(answer)?;
    let lines = text.lines().map(str::trim);
    let calls: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let at = |name: &str| calls.iter().position(|call| *call == name);
    let known = |name: &str| RULES.iter().any(|rule| rule.0 == name || rule.1 == name);
    if let Some(stranger) = calls.iter().find(|call| !known(call)) {
        return Err(format!(
            "`{stranger}` is none of the calls: use those of the gap."
        ));
    }
    for (call, before, why) in RULES {
        match (at(call), at(before)) {
            (Some(call), Some(before)) if before < call => {}
            (Some(_), Some(_)) => {
                return Err(format!("`{call}` is made before `{before}`: {why}."));
            }
            (None, _) => return Err(format!("`{call}` is missing: the guest needs each once.")),
            (_, None) => return Err(format!("`{before}` is missing: the guest needs each once.")),
        }
    }
    if let Some(after) = at("KVM_RUN").and_then(|run| calls.get(run + 1)) {
        return Err(format!(
            "`{after}` comes after `KVM_RUN`: the guest would already run, and its driver expects \
             a whole device."
        ));
    }
    match calls.len() {
        13 => Ok(()),
        count => Err(format!(
            "There are {count} calls, and 13 are wanted: each once."
        )),
    }
}
