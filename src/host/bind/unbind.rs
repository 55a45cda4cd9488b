//! `host unbind`: a device with a record becomes what it was; for any other, the kernel looks for a
//! driver.
//!
//! Unlike a bind, an unbind is no transaction: a device that cannot be given back keeps its record,
//! and the others go back. To bind those again would be further from what the user asked for.

use pci::Bdf;
use vmm::sys::process::Process;

use crate::bind::apply::{give_back, group_node, next_owner, node_of, release, steps_back};
use crate::bind::check_unused::{check_unused, takes_functions};
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, virtual_functions};
use crate::bind::host::Host;
use crate::bind::journal::Entry;
use crate::bind::plan;
use crate::bind::plan::Step;
use crate::bind::record::Record;
use crate::bind::recover::{check_owner, lock_and_recover, recover_journal};
use crate::bind::select::parse_pci;

/// The options of `host unbind`.
#[derive(Clone, Debug, Default)]
pub struct UnbindRequest {
    /// The addresses, as the user wrote them.
    pub addresses: Vec<String>,
    /// Give back devices that a guest uses, too.
    pub force: bool,
    /// Print the steps and do nothing.
    pub dry_run: bool,
}

/// A device to give back, with its facts and steps.
type Going = (Back, Option<(Facts, Vec<Step>)>);

/// How a device is given back.
enum Back {
    /// As the record says.
    To(Record),
    /// To any driver that matches it.
    Free(Facts),
    /// The device was given back already, or is gone.
    Done(Bdf),
    /// The device was not bound.
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

    /// The device as it is now, and the steps; `None` if there is nothing to do.
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

/// The result of an unbind: a line for each device that was given back, and the errors of the
/// others.
pub type Outcome = (Vec<String>, Vec<BindError>);

/// Gives devices back. Devices that were bound along with a named one go with it, and so do its
/// virtual functions if they are removed. Of several named devices, one that cannot be given back
/// becomes an error of the [`Outcome`], and the others go back.
///
/// # Errors
/// A request that cannot be met; with a single named device also why it cannot be given back. Then
/// nothing was done.
pub fn unbind(host: &Host, request: &UnbindRequest) -> Result<Outcome, BindError> {
    let (lock, recovered) = if request.dry_run {
        (None, Vec::new())
    } else {
        let (lock, recovered) = lock_and_recover(host)?;
        (Some(lock), recovered)
    };
    let mut named = Vec::new();
    for address in &request.addresses {
        let bdf = parse_pci(address)?;
        if !named.contains(&bdf) {
            named.push(bdf);
        }
    }
    let mut outcome = Outcome::default();
    let mut going: Vec<Going> = Vec::new();
    for bdf in &named {
        let found = find(host, *bdf, &recovered, &going).and_then(|found| {
            if !request.force {
                check(host, &found)?;
            }
            Ok(found)
        });
        match found {
            Ok(found) => going.extend(found),
            Err(e) if named.len() == 1 => return Err(e),
            Err(e) => outcome.1.push(e),
        }
    }
    if request.dry_run {
        outcome.0 = printed(host, &going)?;
        outcome.1.extend(going.iter().filter_map(never));
        return Ok(outcome);
    }
    // Recovery begins with the last entry.
    let entries: Vec<_> = going.iter().rev().filter_map(entry).collect();
    host.records.begin(&entries)?;
    for (back, _) in going {
        match carry_out(host, back) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
    }
    host.records.end()?;
    drop(lock);
    Ok(outcome)
}

/// The steps as shell commands, without the change of a group's node that another device's user
/// keeps.
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

/// The journal's entry: if this process is killed, the next command gives the device back.
fn entry((back, _): &Going) -> Option<Entry> {
    match back {
        Back::To(record) => Some(Entry {
            bdf: record.bdf,
            before: None,
        }),
        _ => None,
    }
}

/// Gives back the devices of a run. A device that cannot be given back now goes back at a later
/// command.
///
/// # Errors
/// The records cannot be locked or read.
pub fn release_run(host: &Host, run: Process) -> Result<Outcome, BindError> {
    let _lock = host.records.lock()?;
    let mut outcome = Outcome::default();
    match recover_journal(host) {
        // The run's own records can be read, so its devices need not wait for another program.
        Err(e @ BindError::UnknownJournal { .. }) => outcome.1.push(e),
        recovered => drop(recovered?),
    }
    for record in host.records.all()?.into_iter().rev() {
        if record.owner != Some(run) {
            continue;
        }
        let back = Back::To(record);
        // Another process may have opened a device that this run has closed.
        let free = back
            .plan(host)
            .and_then(|plan| plan.map_or(Ok(()), |(now, steps)| check_unused(host, &now, &steps)));
        match free.and_then(|()| carry_out(host, back)) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
    }
    Ok(outcome)
}

/// A named device, after the devices that go with it. Devices in `going` are omitted.
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

/// Checks that all of these can be given back: the named device first, whose error says more. It is
/// the last of the list.
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
        (_, Some(now)) if now.device.is_vfio() => Back::Free(now),
        // The recovery of this command has just given the device back.
        (_, Some(_)) if recovered.contains(&bdf) => Back::Done(bdf),
        // A device without driver and record was left so by another program, or by a person.
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
