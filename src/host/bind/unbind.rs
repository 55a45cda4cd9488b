//! The way back: what was bound here becomes what it was; what somebody else bound, what the kernel
//! makes of it.
//!
//! Unlike a bind, this is done as far as it goes: a device that cannot be given back keeps its record,
//! and the others go back all the same. To take them again would be further from what was asked for.

use std::fs;
use std::path::PathBuf;

use super::apply::{give_back, let_go, steps_back};
use super::error::BindError;
use super::facts::Facts;
use super::plan::{self, Step};
use super::record::Record;
use super::select::parse;
use super::{Host, mend};
use crate::pci::Bdf;
use crate::sys::process::Process;

/// What `host unbind` is asked for.
#[derive(Clone, Debug, Default)]
pub struct UnbindRequest {
    /// The devices, as the user wrote them.
    pub addresses: Vec<String>,
    /// Devices that a guest has too.
    pub force: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// A device on its way back.
enum Back {
    /// As its record says.
    To(Record),
    /// To whoever wants it.
    Free(Facts),
    /// It has gone back already, or is not there any more.
    Done(Bdf),
}

/// What came of an unbind: a line for each device that went back, and why others did not.
pub type Outcome = (Vec<String>, Vec<BindError>);

/// Gives devices back, and with each those that were bound along with it and the virtual functions
/// that were made of it.
///
/// # Errors
/// What is wrong; then nothing was done.
pub fn unbind(host: &Host, request: &UnbindRequest) -> Result<Outcome, BindError> {
    let (lock, mended) = if request.dry_run {
        (None, Vec::new())
    } else {
        (Some(host.records.lock()?), mend(host)?)
    };
    let backs = find(host, &request.addresses, &mended)?;
    if !request.force {
        for back in &backs {
            check_released(host, back)?;
        }
    }
    if request.dry_run {
        let lines = backs.iter().flat_map(|back| dry_run(host, back));
        return Ok((lines.collect(), Vec::new()));
    }
    let mut outcome = Outcome::default();
    for back in backs {
        match carry_out(host, back) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
    }
    drop(lock);
    Ok(outcome)
}

/// Gives back what was bound for a run. Returns what could not be.
///
/// # Errors
/// When the records cannot be locked or read.
pub fn release_run(host: &Host, run: Process) -> Result<Outcome, BindError> {
    let _lock = host.records.lock()?;
    let mut outcome = Outcome::default();
    for record in host.records.all()?.into_iter().rev() {
        if record.owner != Some(run) {
            continue;
        }
        match carry_out(host, Back::To(record)) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
    }
    Ok(outcome)
}

/// The named devices and those that belong to them, which come first.
fn find(host: &Host, addresses: &[String], mended: &[Bdf]) -> Result<Vec<Back>, BindError> {
    let records = host.records.all()?;
    let mut asked: Vec<Bdf> = Vec::new();
    let mut backs = Vec::new();
    for address in addresses {
        let bdf = parse(address)?;
        let along = records
            .iter()
            .filter(|r| r.along == Some(bdf))
            .map(|r| r.bdf);
        for bdf in along.chain([bdf]) {
            if asked.contains(&bdf) {
                continue;
            }
            asked.push(bdf);
            let record = records.iter().find(|r| r.bdf == bdf);
            backs.push(match (record, Facts::read(&host.sysfs, bdf)?) {
                (Some(record), Some(now)) if record.modalias == now.modalias => {
                    Back::To(record.clone())
                }
                (_, Some(now)) if now.device.is_vfio() => Back::Free(now),
                // What a killed run had has just gone back.
                (_, Some(_)) if mended.contains(&bdf) => Back::Done(bdf),
                (_, Some(_)) => return Err(BindError::NotBound(bdf)),
                (Some(_), None) => Back::Done(bdf),
                (None, None) => return Err(BindError::NoDevice(bdf)),
            });
        }
    }
    Ok(backs)
}

fn dry_run(host: &Host, back: &Back) -> Vec<String> {
    let steps = match back {
        Back::To(record) => match Facts::read(&host.sysfs, record.bdf) {
            Ok(Some(now)) => steps_back(host, record, &now),
            _ => Vec::new(),
        },
        Back::Free(now) => plan::let_go(now),
        Back::Done(_) => Vec::new(),
    };
    steps.iter().map(Step::to_string).collect()
}

fn carry_out(host: &Host, back: Back) -> Result<String, BindError> {
    let bdf = match back {
        Back::To(record) => {
            give_back(host, record.bdf)?;
            if let Some(count) = record.functions {
                let bdf = record.bdf;
                return Ok(format!("{bdf}: {count} virtual functions are gone"));
            }
            record.bdf
        }
        Back::Free(now) => {
            let bdf = now.bdf();
            let_go(host, &now)?;
            host.records.remove(bdf)?;
            bdf
        }
        Back::Done(bdf) => {
            host.records.remove(bdf)?;
            bdf
        }
    };
    let now = Facts::read(&host.sysfs, bdf)?;
    Ok(match now {
        None => format!("{bdf}: gone"),
        Some(now) => match now.device.driver {
            Some(driver) => format!("{bdf}: back with {driver}"),
            None => format!("{bdf}: no driver"),
        },
    })
}

/// No process may have the device or its group open: the driver would wait for it, for ever perhaps.
fn check_released(host: &Host, back: &Back) -> Result<(), BindError> {
    let bdf = match back {
        Back::To(record) => record.bdf,
        Back::Free(now) => now.bdf(),
        Back::Done(_) => return Ok(()),
    };
    let Some(facts) = Facts::read(&host.sysfs, bdf)? else {
        return Ok(());
    };
    let holders = holders_of(host, &facts);
    if holders.is_empty() {
        return Ok(());
    }
    Err(BindError::Held { bdf, holders })
}

/// Who has a device, or its group, open through VFIO.
pub(super) fn holders_of(host: &Host, facts: &Facts) -> Vec<(u32, String)> {
    if !facts.device.is_vfio() {
        return Vec::new();
    }
    let vfio = host.places.dev.join("vfio");
    let group = facts.device.group.map(|g| vfio.join(g.to_string()));
    let cdevs = fs::read_dir(facts.device.path.join("vfio-dev"));
    let cdevs = cdevs.into_iter().flatten().flatten();
    let cdevs = cdevs.map(|entry| vfio.join("devices").join(entry.file_name()));
    let nodes: Vec<PathBuf> = group.into_iter().chain(cdevs).collect();
    holders(host, &nodes)
}

/// The processes that have one of these files open: all of them for root, one's own for others.
fn holders(host: &Host, nodes: &[PathBuf]) -> Vec<(u32, String)> {
    let processes = fs::read_dir(&host.places.proc)
        .into_iter()
        .flatten()
        .flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut holders: Vec<_> = pids
        .filter(|pid| {
            let fds = fs::read_dir(host.places.proc.join(format!("{pid}/fd")));
            let mut fds = fds.into_iter().flatten().flatten();
            fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| nodes.contains(&to)))
        })
        .map(|pid| {
            let name = fs::read_to_string(host.places.proc.join(format!("{pid}/comm")));
            (pid, name.unwrap_or_default().trim().to_owned())
        })
        .collect();
    holders.sort();
    holders
}
