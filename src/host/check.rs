//! `host check`: whether this host can pass devices to a guest, with one line for each fact and a
//! remedy for each problem.
//!
//! Facts are read first ([`HostFacts`], [`DeviceFacts`]); each check is a function of the facts
//! alone.

mod addresses;
mod bars;
mod device;
mod finding;
mod machine;
mod memory;
mod parameters;
mod ports;
mod report;
#[cfg(test)]
mod tests;

pub use finding::{Finding, Level, is_good};
use pci::Bdf;
pub use report::{to_json, to_text};
use vmm::config::memory::MemoryConfig;
use vmm::config::ports::PortsConfig;
use vmm::hostinfo::iova;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::sysfs::Sysfs;
use vmm::vfio::open::VfioError;

use crate::bind::{Host, Records, UnderWay};
use crate::facts::{DeviceFacts, HostFacts};
use crate::paths::HostPaths;
use crate::persist::{Files, Persistent, Presence};

/// Reads the facts of this host and of the devices at these addresses, and judges them. `memory` is
/// the guest's, and so are the empty root ports.
///
/// # Errors
/// A text is not an address, there is no device at an address, or sysfs cannot be read.
pub fn check_host(
    addresses: &[String],
    memory: MemoryConfig,
    ports: Option<PortsConfig>,
) -> Result<Vec<Finding>, VfioError> {
    let (sysfs, paths) = (Sysfs::default(), HostPaths::default());
    let busy = Host::default().records.busy();
    let read = |address: &String| {
        let bdf =
            match parse_address(address).map_err(|_| VfioError::BadAddress(address.clone()))? {
                HostName::Pci(bdf) => bdf,
                name => return Err(VfioError::NotPhysical(name)),
            };
        let unreadable = |source| VfioError::Sysfs {
            what: format!("PCI device {bdf}"),
            source,
        };
        let device = sysfs.device(bdf).map_err(unreadable)?;
        let device = device.ok_or(VfioError::NoDevice(bdf))?;
        let busy = busy.contains(&bdf);
        DeviceFacts::read(&sysfs, &paths, device, busy).map_err(unreadable)
    };
    let devices = addresses.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut host = HostFacts::read(&sysfs, &paths, memory);
    if ports.is_some() {
        host.ports = ports;
        host.groups = iova::Reach::of_groups(&sysfs);
    }
    let mut findings = check(&host, &devices);
    let bdfs: Vec<_> = devices.iter().map(|facts| facts.device.bdf).collect();
    add_calls(&mut findings, &Host::default().records, &bdfs);
    // The commands that change devices report a rule that cannot be read.
    let rules = Files::of(&paths).all().unwrap_or_default();
    add_rules(&mut findings, &sysfs, &rules, &bdfs);
    Ok(findings)
}

/// Adds a finding for each of these devices that has a rule of `host bind --persist`.
fn add_rules(findings: &mut Vec<Finding>, sysfs: &Sysfs, rules: &[Persistent], bdfs: &[Bdf]) {
    for rule in rules.iter().filter(|rule| bdfs.contains(&rule.device)) {
        let (bdf, driver) = (rule.device, &rule.driver);
        let finding = match rule.presence(sysfs) {
            Presence::Missing => continue,
            Presence::Same => Finding::pass("persistent", format!("gets {driver} at each boot")),
            Presence::Other(difference) => Finding::warn(
                "persistent",
                format!(
                    "another device than the one that gets {driver} at each boot: {difference}"
                ),
                format!("as root: mini-vmm host unbind {bdf} --persist"),
            ),
        };
        insert(findings, finding.of(bdf), bdf);
    }
}

/// Inserts a finding behind the others of its device.
fn insert(findings: &mut Vec<Finding>, finding: Finding, bdf: Bdf) {
    let mut all = findings.iter();
    let at = all.rposition(|finding| finding.device == Some(bdf));
    let at = at.map_or(findings.len(), |at| at + 1);
    findings.insert(at, finding);
}

/// Adds a failure for each of these devices for which a call of the kernel is under way.
fn add_calls(findings: &mut Vec<Finding>, records: &Records, bdfs: &[Bdf]) {
    let entries = records.begun().unwrap_or_default();
    for entry in entries
        .into_iter()
        .filter(|entry| bdfs.contains(&entry.bdf))
    {
        let bdf = entry.bdf;
        let Some(state) = entry.under_way.filter(UnderWay::blocks) else {
            continue;
        };
        let finding = Finding::fail("under-way", state.describe(bdf), state.remedy(bdf));
        insert(findings, finding.of(bdf), bdf);
    }
}

/// Judges the host, and then each device.
pub fn check(host: &HostFacts, devices: &[DeviceFacts]) -> Vec<Finding> {
    let mut findings = machine::check(host);
    findings.extend(addresses::check(host, devices));
    findings.extend(ports::check(host, devices));
    for facts in devices {
        let bdf = facts.device.bdf;
        let found = device::check(facts, host);
        findings.extend(found.into_iter().map(|finding| finding.of(bdf)));
    }
    findings
}
