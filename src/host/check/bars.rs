//! Checks of a device's BARs: each needs an address of the host, and nobody else may hold a part of
//! it.

use vmm::hostinfo::iomem;
use vmm::hostinfo::sysfs::Sysfs;

use crate::bar_holders::{Holder, Holders};
use crate::check::finding::Finding;
use crate::check::parameters::parameter;
use crate::details::{Space, Unassigned, size_text};
use crate::facts::DeviceFacts;

const NAME: &str = "bars";

/// Returns a finding for each BAR without an address and for each holder, or one that passes.
pub(super) fn check(facts: &DeviceFacts) -> Vec<Finding> {
    if facts.details.bars.is_empty() && facts.details.unassigned.is_empty() {
        return Vec::new();
    }
    let mut findings: Vec<_> = facts.details.unassigned.iter().map(unassigned).collect();
    match &facts.holders {
        Holders::Unknown => findings.push(Finding::warn(
            NAME,
            "whether anything of the host holds a part of a BAR was not looked at: only root sees \
             the addresses in /proc/iomem",
            format!("as root: mini-vmm host check {}", facts.device.bdf),
        )),
        Holders::Named(holders) => findings.extend(holders.iter().map(held)),
    }
    if findings.is_empty() {
        return vec![Finding::pass(
            NAME,
            "each has an address, and the host holds no part",
        )];
    }
    findings
}

/// A BAR to which the host has given no address. The kernel cannot enable the device
/// (drivers/pci/setup-res.c, pci_enable_resources), or VFIO shows it without the BAR.
fn unassigned(bar: &Unassigned) -> Finding {
    let size = bar
        .size
        .map_or(String::new(), |size| format!(" of {}", size_text(size)));
    let text = format!("the host has given BAR {}{size} no address", bar.index);
    match (bar.space, bar.size) {
        // The kernel has given the BAR up, so that the device can be enabled without it. Few
        // drivers need I/O ports.
        (Space::Io, None) => Finding::warn(
            NAME,
            format!("{text}: the guest's device is without these I/O ports"),
            "turn other devices with I/O ports off in the firmware, if a driver needs the ports",
        ),
        (Space::Io, _) => Finding::fail(NAME, text, parameter("with pci=realloc")),
        (Space::Memory32 | Space::Memory64, _) => Finding::fail(
            NAME,
            text,
            format!(
                "turn \"Above 4G Decoding\" on in the firmware (and turn \"Resizable BAR\" off, if \
                 that is not enough); or {}",
                parameter("with pci=realloc")
            ),
        ),
    }
}

/// A holder that keeps VFIO from mapping the BAR: an access fails with EBUSY.
fn held(holder: &Holder) -> Finding {
    let bar = holder
        .bar
        .map_or("a BAR".into(), |bar| format!("BAR {bar}"));
    let text = format!("{} holds a part of {bar}", holder.name);
    let remedy = iomem::remedy(&Sysfs::default(), std::slice::from_ref(&holder.name));
    if holder.framebuffer {
        Finding::fail(
            NAME,
            format!("{text}: the host's boot framebuffer, so VFIO cannot have the BAR"),
            remedy,
        )
    } else {
        Finding::warn(
            NAME,
            format!("{text}, so that VFIO may not be able to have the BAR"),
            remedy,
        )
    }
}
