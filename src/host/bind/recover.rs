//! Recovery. Each command that changes the host first finishes or undoes the change of a killed
//! command, gives back the devices of killed runs, and reports damaged records.

use std::time::{Duration, Instant};

use pci::Bdf;
use tracing::{debug, warn};
use vmm::log::error_chain::with_causes;
use vmm::sys::process::Process;

use crate::bind::apply::{give_back, restore, steps_back};
use crate::bind::call::check_none;
use crate::bind::check_unused::check_unused;
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, virtual_functions};
use crate::bind::host::Host;
use crate::bind::record::Record;
use crate::bind::records::Lock;
use crate::bind::under_way::UnderWay;

/// How often a command looks whether another command has ended.
const LOOK: Duration = Duration::from_millis(50);
/// The time that a process has to end after a signal.
const END: Duration = Duration::from_secs(1);

/// Undoes what killed commands have begun, and gives back the devices of killed runs. Returns a
/// line for each device.
///
/// # Errors
/// The records cannot be locked or read.
pub fn recover_all(host: &Host) -> Result<Vec<String>, BindError> {
    let (lock, recovered) = lock_for(host, &[])?;
    drop(lock);
    let line = |bdf| format!("{bdf}: given back");
    Ok(recovered.iter().map(line).collect())
}

/// Takes the lock for a change of these devices, and recovers. Waits while another command changes
/// one of the devices or a device of its group. Returns the lock and the devices that were given
/// back.
pub(super) fn lock_for(host: &Host, bdfs: &[Bdf]) -> Result<(Lock, Vec<Bdf>), BindError> {
    let end = Instant::now() + host.limit;
    let mut recovered = Vec::new();
    loop {
        let lock = host.records.lock()?;
        let mut theirs = changed_by_another(host, bdfs, true)?;
        if theirs.is_none() {
            recovered.extend(recover(host, bdfs)?);
            // Another command may have begun while a call of the recovery had given the lock away.
            theirs = changed_by_another(host, bdfs, true)?;
        }
        match theirs {
            None => return Ok((lock, recovered)),
            Some(error) if Instant::now() >= end => return Err(error),
            Some(_) => drop(lock),
        }
        std::thread::sleep(LOOK);
    }
}

fn recover(host: &Host, named: &[Bdf]) -> Result<Vec<Bdf>, BindError> {
    let mut recovered = recover_journal(host, named)?;
    for error in host.records.damaged()? {
        report(&error);
    }
    recovered.extend(recover_runs(host)?);
    Ok(recovered)
}

/// An error if another command changes one of these devices, its physical function, which can
/// remove it, one of its virtual functions or, with `group`, a device of its group. A journal of a
/// later version names nobody.
pub(super) fn changed_by_another(
    host: &Host,
    bdfs: &[Bdf],
    group: bool,
) -> Result<Option<BindError>, BindError> {
    let mut near = with_siblings(host, bdfs, group);
    for bdf in near.clone() {
        near.extend(host.sysfs.physical_function(bdf).ok().flatten());
        near.extend(virtual_functions(&host.sysfs, bdf));
    }
    let mut entries = match host.records.readable() {
        // What must not go on then fails in its recovery; a run gives back its own devices.
        Err(BindError::UnknownJournal { .. }) => return Ok(None),
        entries => entries?.into_iter(),
    };
    let theirs = entries.find(|entry| near.contains(&entry.bdf) && entry.has_command());
    Ok(theirs.map(|entry| BindError::Changing {
        bdf: entry.bdf,
        process: entry.command.map_or(0, |command| command.pid),
        call: entry.under_way.map(|state| state.call),
    }))
}

/// These devices and, with `group`, the other devices of their groups.
pub(super) fn with_siblings(host: &Host, bdfs: &[Bdf], group: bool) -> Vec<Bdf> {
    let mut near = bdfs.to_vec();
    for bdf in bdfs.iter().filter(|_| group) {
        let group = host
            .sysfs
            .device(*bdf)
            .ok()
            .flatten()
            .and_then(|device| device.group);
        let members = group.and_then(|group| host.sysfs.group_members(group).ok());
        near.extend(members.into_iter().flatten().map(|member| member.bdf));
    }
    near
}

fn report(error: &BindError) {
    let hint = error.hint().map_or(String::new(), |h| format!("; {h}"));
    warn!("{}{hint}", with_causes(error));
}

/// Undoes a killed bind and finishes a killed unbind, the last device first. A device that cannot
/// be given back now keeps its record, for an `unbind`. `named` are the devices of this command,
/// which says itself what keeps it from them.
///
/// # Errors
/// The journal cannot be read, or has a later version; it stays as it is.
pub(super) fn recover_journal(host: &Host, named: &[Bdf]) -> Result<Vec<Bdf>, BindError> {
    let entries = match host.records.begun() {
        Ok(entries) => entries,
        // A journal of a later version is an error: it must stay for the program that can read it.
        Err(e @ BindError::BadJournal(_)) => {
            report(&e);
            // Nothing can be kept of it.
            host.records.end(&[])?;
            Vec::new()
        }
        Err(e) => return Err(e),
    };
    let mut recovered = Vec::new();
    for entry in entries
        .into_iter()
        .rev()
        .filter(|entry| !entry.has_command())
    {
        let bdf = entry.bdf;
        // A call for another entry may have given the lock away. Another command may have recovered
        // this device meanwhile, and may have bound it again.
        if !host.records.readable()?.contains(&entry) {
            continue;
        }
        let ended = check_ended(entry.under_way.as_ref(), bdf);
        if let Err(e) = ended.and_then(|()| check_none(host, bdf)) {
            if !named.contains(&bdf) {
                report(&e);
            }
            continue;
        }
        if entry.under_way.as_ref().is_some_and(|state| state.of_run) {
            host.records.end(&[bdf])?;
            continue;
        }
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
        host.records.end(&[bdf])?;
    }
    Ok(recovered)
}

/// Checks that the last call for a device has ended. If its command was killed, the process of the
/// call is ended too, unless the kernel holds it in a sleep without signals.
fn check_ended(state: Option<&UnderWay>, bdf: Bdf) -> Result<(), BindError> {
    let Some(state) = state else {
        return Ok(());
    };
    if !state.given_up
        && let Some(process) = state.process
    {
        process.end_sleep();
        let end = Instant::now() + END;
        while process.lives() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if state.blocks() {
        return Err(BindError::UnderWay(bdf, Box::new(state.clone())));
    }
    Ok(())
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
    for bdf in host.records.all()?.into_iter().map(|record| record.bdf) {
        // A call for another device may have given the lock away. The record is read again, and one
        // that is damaged by now is left to a later command, which reports it.
        let Ok(Some(record)) = host.records.load(bdf) else {
            continue;
        };
        if changed_by_another(host, &[bdf], false)?.is_some() {
            continue;
        }
        // Recovery of the journal has reported it.
        if check_none(host, bdf).is_err() {
            continue;
        }
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
        // It had an entry for the time of its calls.
        host.records.end(&[bdf])?;
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
