//! What every command that changes anything does first: a change that was broken off, the devices of
//! a run that is no more, and records that say nothing.

use pci::Bdf;
use tracing::{debug, warn};
use vmm::log::error_chain::with_causes;
use vmm::sys::process::Process;

use crate::bind::Host;
use crate::bind::apply::{give_back, restore, steps_back};
use crate::bind::error::BindError;
use crate::bind::facts::Facts;
use crate::bind::record::{Lock, Record};
use crate::bind::released::check_released;

/// Waits for whoever else is at work, and mends what was left. Returns what went back.
pub(super) fn begin(host: &Host) -> Result<(Lock, Vec<Bdf>), BindError> {
    let lock = host.records.lock()?;
    let mut mended = end_what_was_begun(host)?;
    for error in host.records.damaged()? {
        tell(&error);
    }
    mended.extend(after_killed_runs(host)?);
    Ok((lock, mended))
}

fn tell(error: &BindError) {
    let hint = error.hint().map_or(String::new(), |h| format!("; {h}"));
    warn!("{}{hint}", with_causes(error));
}

/// Takes a broken-off bind back, and brings a broken-off unbind to its end: the last device first. What
/// cannot be now keeps its record, for an `unbind`.
pub(super) fn end_what_was_begun(host: &Host) -> Result<Vec<Bdf>, BindError> {
    let entries = match host.records.begun() {
        Ok(entries) => entries,
        Err(e @ BindError::BadJournal(_)) => {
            tell(&e);
            Vec::new()
        }
        Err(e) => return Err(e),
    };
    let mut mended = Vec::new();
    for entry in entries.into_iter().rev() {
        let bdf = entry.bdf;
        // Somebody may have opened the device since.
        let outcome = free(host, bdf).and_then(|()| restore(host, bdf, entry.before));
        match outcome {
            Ok(()) => {
                warn!("a command was killed while it had PCI device {bdf}: that is mended");
                mended.push(bdf);
            }
            Err(e) => {
                warn!("a command was killed while it had PCI device {bdf}, which stays as it is");
                tell(&e);
            }
        }
    }
    host.records.end()?;
    Ok(mended)
}

fn free(host: &Host, bdf: Bdf) -> Result<(), BindError> {
    match (host.records.load(bdf)?, Facts::read(&host.sysfs, bdf)?) {
        (Some(record), Some(now)) => check_released(host, &now, &steps_back(host, &record, &now)),
        _ => Ok(()),
    }
}

/// Gives back what a killed run has left, and forgets devices that are gone.
fn after_killed_runs(host: &Host) -> Result<Vec<Bdf>, BindError> {
    let mut mended = Vec::new();
    for record in host.records.all()? {
        let bdf = record.bdf;
        let now = Facts::read(&host.sysfs, bdf)?;
        let Some(now) = now.filter(|now| record.is_of(now)) else {
            debug!("PCI device {bdf} is gone, or another is in its place");
            host.records.remove(bdf)?;
            continue;
        };
        // Who still has it open has it still, whatever has become of the run.
        if !is_abandoned(&record)
            || check_released(host, &now, &steps_back(host, &record, &now)).is_err()
        {
            continue;
        }
        match give_back(host, bdf) {
            Ok(()) => {
                warn!("a run that was killed had PCI device {bdf}: it went back");
                mended.push(bdf);
            }
            Err(e) => tell(&e),
        }
    }
    Ok(mended)
}

/// Whether a record is of a run that is no more.
pub(super) fn is_abandoned(record: &Record) -> bool {
    record.owner.is_some_and(|owner| !owner.lives())
}

/// A device of a run that lives is that run's until its end, and goes back then: nobody takes it over,
/// nor another device of its group, whose driver could not come back while a guest has the group.
pub(super) fn check_owner(
    host: &Host,
    device: &Facts,
    asking: Option<Process>,
) -> Result<(), BindError> {
    let records = host.records.all()?;
    let group = device.device.group;
    let theirs = records.iter().find_map(|record| {
        let beside = record.bdf == device.bdf() || (group.is_some() && record.group == group);
        let owner = record
            .owner
            .filter(|owner| beside && Some(*owner) != asking)?;
        owner.lives().then_some((record.bdf, owner))
    });
    match theirs {
        Some((bdf, run)) => Err(BindError::Owned { bdf, run: run.pid }),
        // One that cannot be read is said before anything is done.
        None => host.records.load(device.bdf()).map(drop),
    }
}
