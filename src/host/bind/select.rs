//! Selects the devices of a command, and checks that the host does not need them.

use pci::Bdf;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::sysfs::PciDevice;

use crate::bind::error::BindError;
use crate::bind::facts::{Facts, unreadable};
use crate::bind::host::Host;
use crate::in_use::in_use;

/// A device to bind. `along` is the named device whose group brought this device in; `None` if the
/// user named the device itself.
pub(super) struct Wanted {
    pub(super) facts: Facts,
    pub(super) along: Option<Bdf>,
}

/// The devices that the user named. A device that is named twice is in the list once.
pub(super) fn named(host: &Host, addresses: &[String]) -> Result<Vec<Facts>, BindError> {
    let mut found: Vec<Facts> = Vec::new();
    for address in addresses {
        let bdf = parse_pci(address)?;
        if found.iter().any(|f| f.bdf() == bdf) {
            continue;
        }
        let facts = Facts::read(&host.sysfs, bdf)?.ok_or(BindError::NoDevice(bdf))?;
        if facts.device.is_bridge() {
            return Err(BindError::Bridge(bdf));
        }
        if facts.device.group.is_none() {
            return Err(BindError::NoGroup(bdf));
        }
        found.push(facts);
    }
    Ok(found)
}

/// Parses the address of a PCI device. A mediated device has no host driver to unbind.
pub(super) fn parse_pci(address: &str) -> Result<Bdf, BindError> {
    match parse_address(address) {
        Ok(HostName::Pci(bdf)) => Ok(bdf),
        _ => Err(BindError::BadAddress(address.to_owned())),
    }
}

/// Selects the named devices. With `group`, also selects the other devices of their IOMMU groups,
/// except bridges.
///
/// # Errors
/// The driver of a bridge makes a named device's group unusable ([`PciDevice::blocks_group`]).
/// Without `group`, the driver of any other device in the group is an error as well.
pub(super) fn with_group(
    host: &Host,
    named: Vec<Facts>,
    group: bool,
) -> Result<Vec<Wanted>, BindError> {
    let asked: Vec<Bdf> = named.iter().map(Facts::bdf).collect();
    let mut wanted: Vec<Wanted> = Vec::new();
    for facts in named {
        let (bdf, number) = (facts.bdf(), facts.device.group.unwrap_or_default());
        wanted.push(Wanted { facts, along: None });
        let members = host.sysfs.group_members(number);
        let members = members.map_err(unreadable(format!("IOMMU group {number}")))?;
        let others = members.into_iter().filter(|m| !asked.contains(&m.bdf));
        let (bridges, others): (Vec<_>, Vec<_>) = others.partition(PciDevice::is_bridge);
        if let Some(bridge) = bridges.iter().find(|b| b.blocks_group()) {
            return Err(BindError::BridgeInGroup {
                bdf,
                group: number,
                bridge: bridge.bdf,
            });
        }
        if !group {
            let others: Vec<_> = others.into_iter().filter(PciDevice::blocks_group).collect();
            if others.is_empty() {
                continue;
            }
            return Err(BindError::Shared {
                bdf,
                group: number,
                others,
            });
        }
        for other in others {
            if wanted.iter().all(|w| w.facts.bdf() != other.bdf) {
                wanted.push(Wanted {
                    facts: Facts::of(other)?,
                    along: Some(bdf),
                });
            }
        }
    }
    Ok(wanted)
}

/// Checks that the host does not need a device. An interface that is up but has no address does not
/// count as a use. `run`: whether the device is bound for a run.
pub(super) fn check_free(host: &Host, device: &PciDevice, run: bool) -> Result<(), BindError> {
    if device.is_vfio() {
        return Ok(());
    }
    let bdf = device.bdf;
    let uses = in_use(&host.sysfs, &host.paths, device)
        .map_err(unreadable(format!("the use of PCI device {bdf}")))?;
    let serious: Vec<_> = uses.iter().filter(|u| u.is_serious()).collect();
    if serious.is_empty() {
        return Ok(());
    }
    // If one use has no remedy, a remedy for the other uses does not help.
    let remedies: Option<Vec<_>> = serious.iter().map(|u| u.remedy()).collect();
    Err(BindError::InUse {
        bdf,
        uses: serious.iter().map(|u| u.to_string()).collect(),
        run,
        remedy: remedies.and_then(|remedies| remedies.into_iter().next()),
    })
}
