//! `host unbind`: returns a device with a record to its earlier state. For a device without a
//! record, the kernel looks for a driver.
//!
//! Unlike a bind, an unbind is no transaction. If a device cannot be given back, it keeps its
//! record, and the other devices are given back. To bind these again would be further from the
//! user's wish.

use pci::Bdf;
use vmm::sys::process::Process;

use crate::bind::apply::{give_back, group_node, next_owner, node_of, release, steps_back};
use crate::bind::call::check_none;
use crate::bind::check_unused::{check_unused, takes_functions};
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, virtual_functions};
use crate::bind::host::Host;
use crate::bind::journal::Entry;
use crate::bind::plan::Step;
use crate::bind::record::Record;
use crate::bind::recover::{changed_by_another, check_owner, lock_for, recover_journal};
use crate::bind::select::parse_pci;
use crate::bind::{lasting, plan};

/// The options of `host unbind`.
#[derive(Clone, Debug, Default)]
pub struct UnbindRequest {
    /// The addresses, as the user wrote them.
    pub addresses: Vec<String>,
    /// Give back devices even if a guest uses them.
    pub force: bool,
    /// Leave the devices to the host at each boot, too.
    pub persist: bool,
    /// Print the steps, and change nothing.
    pub dry_run: bool,
}

/// A device to give back, with its facts and steps.
type Going = (Back, Option<(Facts, Vec<Step>)>);

/// The way to give a device back.
enum Back {
    /// The device returns to the state in this record.
    To(Record),
    /// The device goes to any driver that matches it.
    Free(Facts),
    /// The device was already given back, or no longer exists.
    Done(Bdf),
    /// The device is not bound.
    Never(Bdf),
}

impl Back {
    fn bdf(&self) -> Bdf {
        match self {
            Self::To(record) => record.bdf,
            Self::Free(now) => now.bdf(),
            Self::Done(bdf) | Self::Never(bdf) => *bdf,
        }
    }

    /// The device's facts now, and the steps; `None` if there is nothing to do.
    fn plan(&self, host: &Host) -> Result<Option<(Facts, Vec<Step>)>, BindError> {
        Ok(match self {
            Self::To(record) => Facts::read(&host.sysfs, record.bdf)?.map(|now| {
                let steps = steps_back(host, record, &now);
                (now, steps)
            }),
            Self::Free(now) => Some((now.clone(), plan::release(now))),
            Self::Done(_) | Self::Never(_) => None,
        })
    }
}

/// The result of an unbind: a line for each device that was given back, and an error for each other
/// device.
pub type Outcome = (Vec<String>, Vec<BindError>);

/// Gives devices back. If a device was bound along with a named device, it is given back too.
/// Virtual functions are given back too if they are removed. With several named devices, a device
/// that cannot be given back becomes an error in the [`Outcome`], and the others are given back.
///
/// # Errors
/// The request cannot be met. With a single named device, an error is also returned if that device
/// cannot be given back. Nothing was changed then.
pub fn unbind(host: &Host, request: &UnbindRequest) -> Result<Outcome, BindError> {
    let mut named = Vec::new();
    for address in &request.addresses {
        let bdf = parse_pci(address)?;
        if !named.contains(&bdf) {
            named.push(bdf);
        }
    }
    // The devices whose rules are removed.
    let mut ended = Vec::new();
    if request.persist {
        lasting::add_along(host, &mut named)?;
        ended = lasting::with_rule(host, &named);
    }
    let (lock, recovered) = if request.dry_run {
        (None, Vec::new())
    } else {
        let (lock, recovered) = lock_for(host, &named)?;
        (Some(lock), recovered)
    };
    let mut outcome = Outcome::default();
    let mut going: Vec<Going> = Vec::new();
    for bdf in &named {
        let found = check_none(host, *bdf);
        let found = found.and_then(|()| find(host, *bdf, &recovered, &going));
        let found = found.and_then(|found| {
            if !request.force {
                check(host, &found)?;
            }
            Ok(found)
        });
        match found {
            Ok(found) => going.extend(found.into_iter().filter(|(back, _)| {
                // A device that the host has already, or that is absent, has a rule to remove.
                !matches!(back, Back::Never(_)) || !ended.contains(&back.bdf())
            })),
            Err(BindError::NoDevice(bdf)) if ended.contains(&bdf) => {}
            Err(e) if named.len() == 1 => return Err(e),
            Err(e) => {
                ended.retain(|other| other != bdf);
                outcome.1.push(e);
            }
        }
    }
    if request.dry_run {
        outcome.0 = printed(host, &going)?;
        outcome.0.extend(lasting::commands_back(host, &ended)?);
        outcome.1.extend(going.iter().filter_map(never));
        return Ok(outcome);
    }
    // Recovery starts with the last entry.
    let entries: Vec<_> = going.iter().rev().filter_map(entry).collect();
    host.records.begin(&entries)?;
    let bdfs: Vec<_> = going.iter().map(|(back, _)| back.bdf()).collect();
    for (back, _) in going {
        match carry_out(host, back) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
    }
    host.records.end(&bdfs)?;
    add(&mut outcome, lasting::forget(host, &ended));
    drop(lock);
    if ended.is_empty() {
        outcome.0.extend(lasting::notes(host, &named));
    } else {
        add(&mut outcome, lasting::update_initramfs(host));
    }
    Ok(outcome)
}

fn add(outcome: &mut Outcome, more: Result<Vec<String>, BindError>) {
    match more {
        Ok(lines) => outcome.0.extend(lines),
        Err(e) => outcome.1.push(e),
    }
}

/// The steps as shell commands. The list leaves out a change of a group's node if the user of
/// another device keeps the node.
fn printed(host: &Host, going: &[Going]) -> Result<Vec<String>, BindError> {
    let bdfs: Vec<_> = going.iter().map(|(back, _)| back.bdf()).collect();
    let mut lines = Vec::new();
    for (back, plan) in going {
        let kept = match back {
            Back::To(record) if next_owner(host, record, &bdfs)?.is_some() => {
                group_node(host, record)
            }
            _ => None,
        };
        let steps = plan.iter().flat_map(|(_, steps)| steps);
        let stays = |step: &Step| kept.is_some() && node_of(host, step) == kept;
        lines.extend(steps.filter(|s| !stays(s)).map(Step::to_string));
    }
    Ok(lines)
}

fn never((back, _): &Going) -> Option<BindError> {
    match back {
        Back::Never(bdf) => Some(BindError::NotBound(*bdf)),
        _ => None,
    }
}

/// The device's entry in the journal. If this process is killed, the next command gives the device
/// back.
fn entry((back, _): &Going) -> Option<Entry> {
    match back {
        Back::To(record) => Some(Entry::new(record.bdf, None)),
        _ => None,
    }
}

/// Gives back the devices of a run. If a device cannot be given back now, a later command gives it
/// back.
///
/// # Errors
/// The records cannot be locked or read.
pub fn release_run(host: &Host, run: Process) -> Result<Outcome, BindError> {
    release_of_run(host, run, |_| true)
}

/// Gives back those devices of a run that are `wanted`.
///
/// # Errors
/// As [`release_run`].
pub fn release_of_run(
    host: &Host,
    run: Process,
    wanted: impl Fn(Bdf) -> bool,
) -> Result<Outcome, BindError> {
    let _lock = host.records.lock()?;
    let mut outcome = Outcome::default();
    match recover_journal(host, &[]) {
        // The run's own records can be read, so its devices need not wait for another program.
        Err(e @ BindError::UnknownJournal { .. }) => outcome.1.push(e),
        recovered => drop(recovered?),
    }
    let ours = host.records.all()?.into_iter().rev();
    let ours = ours.filter(|r| r.owner == Some(run) && wanted(r.bdf));
    for bdf in ours.map(|r| r.bdf) {
        // A call for another device may have given the lock away, and another command may have
        // taken this one. A record that is damaged by now is reported by the next command.
        let record = match host.records.load(bdf) {
            Ok(Some(record)) if record.owner == Some(run) => record,
            _ => continue,
        };
        let theirs = changed_by_another(host, &[bdf], false)?;
        if let Some(e) = theirs.or(check_none(host, bdf).err()) {
            outcome.1.push(e);
            continue;
        }
        let back = Back::To(record);
        // Another process may have opened the device after this run closed it.
        let free = back
            .plan(host)
            .and_then(|plan| plan.map_or(Ok(()), |(now, steps)| check_unused(host, &now, &steps)));
        match free.and_then(|()| carry_out(host, back)) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
        host.records.end(&[bdf])?;
    }
    Ok(outcome)
}

/// A named device, after the devices that must be given back with it. Devices in `going` are left
/// out.
fn find(
    host: &Host,
    named: Bdf,
    recovered: &[Bdf],
    going: &[Going],
) -> Result<Vec<Going>, BindError> {
    let plan = back(host, named, recovered)?.plan(host)?;
    let functions = match plan {
        Some((_, steps)) if takes_functions(&steps) => virtual_functions(&host.sysfs, named),
        _ => Vec::new(),
    };
    let records = host.records.all()?.into_iter();
    let along = records.filter(|r| r.along == Some(named) || functions.contains(&r.bdf));
    let mut found = Vec::new();
    for bdf in along.map(|r| r.bdf).chain([named]) {
        if going.iter().all(|(back, _)| back.bdf() != bdf) {
            let back = back(host, bdf, recovered)?;
            let plan = back.plan(host)?;
            found.push((back, plan));
        }
    }
    Ok(found)
}

/// Checks that all of these devices can be given back. The named device, which is the last of the
/// list, is checked first, because its error says more.
fn check(host: &Host, found: &[Going]) -> Result<(), BindError> {
    for (now, steps) in found.iter().rev().filter_map(|(_, plan)| plan.as_ref()) {
        check_owner(host, now, None)?;
        check_unused(host, now, steps)?;
    }
    Ok(())
}

fn back(host: &Host, bdf: Bdf, recovered: &[Bdf]) -> Result<Back, BindError> {
    let record = host.records.load(bdf)?;
    Ok(match (record, Facts::read(&host.sysfs, bdf)?) {
        (Some(record), Some(now)) if record.is_of(&now) => Back::To(record),
        (_, Some(now)) if now.is_taken() => Back::Free(now),
        // The recovery of this command has just given the device back.
        (_, Some(_)) if recovered.contains(&bdf) => Back::Done(bdf),
        // Another program, or a person, left the device without a driver and without a record.
        (_, Some(now)) if now.device.driver.is_none() => Back::Free(now),
        (_, Some(_)) => Back::Never(bdf),
        (Some(_), None) => Back::Done(bdf),
        (None, None) => return Err(BindError::NoDevice(bdf)),
    })
}

fn carry_out(host: &Host, back: Back) -> Result<String, BindError> {
    let bdf = match back {
        Back::To(record) => {
            give_back(host, record.bdf)?;
            if let Some(count) = record.functions {
                let bdf = record.bdf;
                return Ok(format!("{bdf}: {count} virtual functions removed"));
            }
            record.bdf
        }
        Back::Free(now) => {
            let bdf = now.bdf();
            release(host, &now)?;
            host.records.remove(bdf)?;
            bdf
        }
        Back::Done(bdf) => {
            host.records.remove(bdf)?;
            bdf
        }
        Back::Never(bdf) => return Err(BindError::NotBound(bdf)),
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
