//! `host check`: whether this host can give its devices to a guest, one line a fact. What is amiss
//! comes with what to type.
//!
//! Facts are read first ([`HostFacts`], [`DeviceFacts`]); each check is a function of them alone.

mod addresses;
mod device;
mod machine;
mod report;
#[cfg(test)]
mod tests;

use pci::Bdf;
pub use report::{to_json, to_text};
use serde::Serialize;
use vmm::hostinfo::name::{HostName, parse_address};
use vmm::hostinfo::sysfs::Sysfs;
use vmm::vfio::open::VfioError;

use crate::facts::{DeviceFacts, HostFacts};
use crate::in_use::Places;

/// How a fact bears on passing a device through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Pass,
    /// It works, or will when a step is taken that is still to come; or not as well as it could.
    Warn,
    /// It will not work.
    Fail,
}

/// One fact, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked: a name that stays.
    pub name: &'static str,
    /// The device that it is about, if one in particular.
    pub device: Option<Bdf>,
    /// The judgement.
    pub level: Level,
    /// The fact, in a few words.
    pub text: String,
    /// What mends it; always there unless it passes.
    pub fix: Option<String>,
}

impl Finding {
    fn pass(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            device: None,
            level: Level::Pass,
            text: text.into(),
            fix: None,
        }
    }

    fn warn(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            fix: Some(fix.into()),
            ..Self::pass(name, text)
        }
    }

    fn fail(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(name, text, fix)
        }
    }

    fn of(self, device: Bdf) -> Self {
        Self {
            device: Some(device),
            ..self
        }
    }
}

/// Reads the facts of this host and of the devices at these addresses, for a guest with `wanted`
/// bytes of memory, and judges them.
///
/// # Errors
/// What is no address, or of no device; or sysfs cannot be read.
pub fn check_host(addresses: &[String], wanted: u64) -> Result<Vec<Finding>, VfioError> {
    let (sysfs, places) = (Sysfs::default(), Places::default());
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
        DeviceFacts::read(&sysfs, &places, device).map_err(unreadable)
    };
    let devices = addresses.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(check(&HostFacts::read(&sysfs, &places, wanted), &devices))
}

/// Judges the host, and the devices one after the other.
pub fn check(host: &HostFacts, devices: &[DeviceFacts]) -> Vec<Finding> {
    let mut findings = machine::check(host);
    findings.extend(addresses::check(host, devices));
    for facts in devices {
        let bdf = facts.device.bdf;
        let found = device::check(facts, host);
        findings.extend(found.into_iter().map(|finding| finding.of(bdf)));
    }
    findings
}

/// Whether nothing fails: exit status 0.
pub fn is_good(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.level != Level::Fail)
}
