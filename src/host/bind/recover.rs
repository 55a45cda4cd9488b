//! Recovery. Each command that changes the host first finishes or undoes the change of a killed
//! command, gives back the devices of killed runs, and reports damaged records.

use pci::Bdf;
use tracing::{debug, warn};
use vmm::log::error_chain::with_causes;
use vmm::sys::process::Process;

use crate::bind::apply::{give_back, restore, steps_back};
use crate::bind::check_unused::check_unused;
use crate::bind::error::BindError;
use crate::bind::facts::Facts;
use crate::bind::host::Host;
use crate::bind::record::Record;
use crate::bind::records::Lock;

/// Takes the lock and recovers. Returns the lock and the devices that were given back.
pub(super) fn lock_and_recover(host: &Host) -> Result<(Lock, Vec<Bdf>), BindError> {
    let lock = host.records.lock()?;
    let mut recovered = recover_journal(host)?;
    for error in host.records.damaged()? {
        report(&error);
    }
    recovered.extend(recover_runs(host)?);
    Ok((lock, recovered))
}

fn report(error: &BindError) {
    let hint = error.hint().map_or(String::new(), |h| format!("; {h}"));
    warn!("{}{hint}", with_causes(error));
}

/// Undoes a killed bind and finishes a killed unbind, the last device first. A device that cannot
/// be given back now keeps its record, for an `unbind`.
///
/// # Errors
/// The journal cannot be read, or has a later version; it stays as it is.
pub(super) fn recover_journal(host: &Host) -> Result<Vec<Bdf>, BindError> {
    let entries = match host.records.begun() {
        Ok(entries) => entries,
        // A journal of a later version is an error: it must stay for the program that can read it.
        Err(e @ BindError::BadJournal(_)) => {
            report(&e);
            Vec::new()
        }
        Err(e) => return Err(e),
    };
    let mut recovered = Vec::new();
    for entry in entries.into_iter().rev() {
        let bdf = entry.bdf;
        // Another process may have opened the device since the kill.
        let outcome =
            check_free_to_restore(host, bdf).and_then(|()| restore(host, bdf, entry.before));
        match outcome {
            Ok(()) => {
                warn!(
                    "a command was killed while it had PCI device {bdf}: the device was recovered"
                );
                recovered.push(bdf);
            }
            Err(e) => {
                warn!(
                    "a command was killed while it had PCI device {bdf}: the device stays as it is"
                );
                report(&e);
            }
        }
    }
    host.records.end()?;
    Ok(recovered)
}

fn check_free_to_restore(host: &Host, bdf: Bdf) -> Result<(), BindError> {
    match (host.records.load(bdf)?, Facts::read(&host.sysfs, bdf)?) {
        (Some(record), Some(now)) => check_unused(host, &now, &steps_back(host, &record, &now)),
        _ => Ok(()),
    }
}

/// Gives back the devices of killed runs. Removes the records of devices that no longer exist.
fn recover_runs(host: &Host) -> Result<Vec<Bdf>, BindError> {
    let mut recovered = Vec::new();
    for record in host.records.all()? {
        let bdf = record.bdf;
        let now = Facts::read(&host.sysfs, bdf)?;
        let Some(now) = now.filter(|now| record.is_of(now)) else {
            debug!("PCI device {bdf} is gone or replaced by another device");
            host.records.remove(bdf)?;
            continue;
        };
        // If a process has the device open, the device is not given back, even if the run has
        // ended.
        if !is_abandoned(&record)
            || check_unused(host, &now, &steps_back(host, &record, &now)).is_err()
        {
            continue;
        }
        match give_back(host, bdf) {
            Ok(()) => {
                warn!("a run was killed while it had PCI device {bdf}: the device was given back");
                recovered.push(bdf);
            }
            Err(e) => report(&e),
        }
    }
    Ok(recovered)
}

/// Whether the record names a run that has ended.
pub(super) fn is_abandoned(record: &Record) -> bool {
    record.owner.is_some_and(|owner| !owner.lives())
}

/// Refuses a device that belongs to another running run, and the other devices of its group: a host
/// driver could not bind them while a guest uses the group. `asking` is the run that wants the
/// device.
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
        // If the record cannot be read, the command fails before its first change.
        None => host.records.load(device.bdf()).map(drop),
    }
}
