//! Checks of one device: its group, driver, reset, power, ROM, and the host's use of it.

use vmm::hostinfo::pci_device::PciDevice;

use crate::check::bars;
use crate::check::finding::Finding;
use crate::check::ports;
use crate::class::class_name;
use crate::details::size_text;
use crate::facts::{DeviceFacts, HostFacts, Node};
use crate::in_use::{Use, nothing_found};

pub(super) fn check(facts: &DeviceFacts, host: &HostFacts) -> Vec<Finding> {
    let mut findings = vec![kind(facts)];
    if facts.device.is_bridge() {
        return findings;
    }
    findings.push(group(facts));
    findings.extend(members(facts));
    findings.push(driver(facts));
    findings.extend(node(facts, host));
    findings.extend(reserved(facts));
    findings.extend(bars::check(facts));
    findings.extend(ports::port_for(facts, host));
    findings.push(reset(facts));
    findings.push(power(facts));
    findings.push(rom(facts));
    findings.extend(uses(facts));
    findings
}

/// The device's class and BARs, and whether it answers.
fn kind(facts: &DeviceFacts) -> Finding {
    const NAME: &str = "device";
    let bdf = facts.device.bdf;
    let class = class_name(facts.device.class);
    let (vendor, device) = facts.details.id;
    if facts.device.is_bridge() {
        return Finding::fail(
            NAME,
            format!("{class} [{vendor:04x}:{device:04x}]: bridges stay with the host"),
            "pass a device behind it; see `mini-vmm host list`",
        );
    }
    if !facts.details.answers {
        return Finding::fail(
            NAME,
            "its configuration space reads all ones: the device is off or lost",
            format!(
                "as root: echo 1 > /sys/bus/pci/devices/{bdf}/remove; \
                 echo 1 > /sys/bus/pci/rescan; if that does not help, switch the host off and on"
            ),
        );
    }
    let bars = facts.details.bars.iter().map(|bar| size_text(bar.size));
    let bars = match bars.collect::<Vec<_>>().as_slice() {
        [] => "no BARs".into(),
        sizes => format!("BARs {}", sizes.join(", ")),
    };
    Finding::pass(NAME, format!("{class} [{vendor:04x}:{device:04x}], {bars}"))
}

fn group(facts: &DeviceFacts) -> Finding {
    const NAME: &str = "group";
    match (facts.device.group, facts.members.len()) {
        _ if facts.device.no_iommu => Finding::fail(
            NAME,
            "in VFIO's no-IOMMU mode: nothing keeps it from reading and writing all of the host's \
             memory",
            "turn the IOMMU on: see the line `iommu` above",
        ),
        (None, _) => Finding::fail(
            NAME,
            "in no IOMMU group",
            "turn the IOMMU on: see the line `iommu` above",
        ),
        (Some(group), 0 | 1) => Finding::pass(NAME, format!("alone in group {group}")),
        (Some(group), members) => Finding::pass(NAME, format!("one of {members} in group {group}")),
    }
}

/// A finding for each other device of the group. If a host driver has such a device, the finding is
/// a warning, or a failure if the checked device is already bound.
fn members(facts: &DeviceFacts) -> Vec<Finding> {
    const NAME: &str = "group-member";
    let bdf = facts.device.bdf;
    let others = facts.members.iter().filter(|m| m.bdf != bdf);
    let judge = |member: &PciDevice| {
        let what = format!("{} ({})", member.bdf, class_name(member.class));
        let driver = member.driver.as_deref();
        if member.is_bridge() && !member.blocks_group() {
            return Finding::pass(NAME, format!("{what} stays with the host"));
        }
        if !member.blocks_group() {
            let state = driver.map_or("no driver".to_owned(), |d| format!("driver {d}"));
            return Finding::pass(NAME, format!("{what} has no host driver: {state}"));
        }
        let text = format!("{what} is bound to {}", driver.unwrap_or("no driver"));
        let fix = format!("as root: mini-vmm host bind {bdf} --group");
        if facts.device.is_vfio() {
            Finding::fail(NAME, text, fix)
        } else {
            Finding::warn(NAME, text, fix)
        }
    };
    others.map(judge).collect()
}

fn driver(facts: &DeviceFacts) -> Finding {
    const NAME: &str = "driver";
    let fix = match facts.device.vgpu_type_file() {
        // To bind another driver would end what the GPU's driver does for guests.
        Some(file) => format!("as root: echo NUMBER > {} (a vGPU type)", file.display()),
        None => format!("as root: mini-vmm host bind {}", facts.device.bdf),
    };
    match &facts.device.driver {
        Some(driver) if facts.device.is_vfio() => Finding::pass(NAME, driver),
        Some(driver) => Finding::warn(NAME, format!("bound to {driver}, not to vfio-pci"), fix),
        None => Finding::warn(NAME, "bound to no driver, not to vfio-pci", fix),
    }
}

/// The node that a run opens: the device's own node if iommufd can be used, otherwise the group's
/// node. The node exists only while the device is bound.
fn node(facts: &DeviceFacts, host: &HostFacts) -> Option<Finding> {
    const NAME: &str = "permission";
    let group = facts.device.group.filter(|_| facts.device.is_vfio())?;
    let (path, state) = match &facts.cdev {
        Some((path, state)) if host.iommufd_node == Node::Usable => (path.clone(), *state),
        _ => (format!("/dev/vfio/{group}"), facts.group_node),
    };
    Some(match state {
        Node::Usable => Finding::pass(NAME, format!("{path} may be used")),
        Node::Missing => Finding::fail(
            NAME,
            format!("there is no {path}"),
            "as root: udevadm trigger (udev makes it)",
        ),
        Node::Denied => Finding::fail(
            NAME,
            format!("{path} may not be used by this user"),
            format!("as root: chown $USER {path} (with your user's name for $USER)"),
        ),
    })
}

fn reserved(facts: &DeviceFacts) -> Option<Finding> {
    facts.reach.is_refused().then(|| {
        Finding::fail(
            "reserved-memory",
            "the firmware uses memory through this device (an RMRR), so VFIO refuses it",
            "turn off the firmware's use of the device (management, shared memory, legacy USB), or \
             pass another device",
        )
    })
}

fn reset(facts: &DeviceFacts) -> Finding {
    const NAME: &str = "reset";
    match facts.details.reset_methods.as_slice() {
        [] => Finding::warn(
            NAME,
            "none: the device keeps its state from one guest to the next",
            format!(
                "as root: echo default > /sys/bus/pci/devices/{}/reset_method; if it stays empty, \
                 switch the host off between guests that do not trust each other",
                facts.device.bdf
            ),
        ),
        [only] if only == "unnamed" => Finding::pass(NAME, "it can be reset"),
        methods => Finding::pass(NAME, methods.join(", then ")),
    }
}

/// The power state (Documentation/ABI/testing/sysfs-bus-pci: power_state). Opening a device wakes
/// it.
fn power(facts: &DeviceFacts) -> Finding {
    const NAME: &str = "power";
    let wake = format!(
        "as root: echo on > /sys/bus/pci/devices/{}/power/control",
        facts.device.bdf
    );
    match facts.details.power_state.as_deref() {
        Some("error") => Finding::fail(NAME, "the device cannot leave its power state", wake),
        Some("unknown") | None => Finding::pass(NAME, "its power state is not known"),
        Some("D0") => Finding::pass(NAME, "D0, awake"),
        Some(state) => Finding::pass(NAME, format!("{state}: asleep until it is opened")),
    }
}

fn rom(facts: &DeviceFacts) -> Finding {
    const NAME: &str = "rom";
    let boot_display = facts.uses.contains(&Use::BootDisplay);
    match facts.details.rom {
        // For the boot display, a read of the ROM returns the firmware's copy in RAM. The firmware
        // may have changed the copy (arch/x86/pci/fixup.c, pci_fixup_video).
        Some(size) if boot_display => Finding::warn(
            NAME,
            format!(
                "{} of expansion ROM, which the firmware has used",
                size_text(size)
            ),
            format!(
                "boot the host on another display; or give the guest the ROM from a file, \
                 --vfio {},romfile=PATH",
                facts.device.bdf
            ),
        ),
        Some(size) => Finding::pass(NAME, format!("{} of expansion ROM", size_text(size))),
        None => Finding::pass(NAME, "no expansion ROM"),
    }
}

fn uses(facts: &DeviceFacts) -> Vec<Finding> {
    const NAME: &str = "in-use";
    if facts.uses.is_empty() {
        return vec![Finding::pass(NAME, nothing_found(facts.sees_all))];
    }
    let judge = |u: &Use| {
        let fix = u
            .remedy()
            .unwrap_or_else(|| "pass another device: the host cannot do without this one".into());
        if u.is_serious() {
            Finding::fail(NAME, u.to_string(), fix)
        } else {
            Finding::warn(NAME, u.to_string(), fix)
        }
    };
    facts.uses.iter().map(judge).collect()
}
