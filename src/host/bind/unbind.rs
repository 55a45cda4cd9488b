//! The way back: what was bound here becomes what it was; what somebody else bound, what the kernel
//! makes of it.
//!
//! Unlike a bind, this is done as far as it goes: a device that cannot be given back keeps its record,
//! and the others go back all the same. To take them again would be further from what was asked for.

use pci::Bdf;
use vmm::sys::process::Process;

use crate::bind::apply::{give_back, group_node, heir, let_go, node_of, steps_back};
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, virtual_functions};
use crate::bind::journal::Entry;
use crate::bind::mend::{begin, check_owner, end_what_was_begun};
use crate::bind::plan::Step;
use crate::bind::record::Record;
use crate::bind::released::{check_released, takes_functions};
use crate::bind::select::parse;
use crate::bind::{Host, plan};

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

/// A device on its way back, and its plan.
type Going = (Back, Option<(Facts, Vec<Step>)>);

/// A device on its way back.
enum Back {
    /// As its record says.
    To(Record),
    /// To whoever wants it.
    Free(Facts),
    /// It has gone back already, or is not there any more.
    Done(Bdf),
    /// Nobody has taken it.
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

    /// The device as it is now, and what will be done with it; `None` if that is nothing.
    fn plan(&self, host: &Host) -> Result<Option<(Facts, Vec<Step>)>, BindError> {
        Ok(match self {
            Self::To(record) => Facts::read(&host.sysfs, record.bdf)?.map(|now| {
                let steps = steps_back(host, record, &now);
                (now, steps)
            }),
            Self::Free(now) => Some((now.clone(), plan::let_go(now))),
            Self::Done(_) | Self::Never(_) => None,
        })
    }
}

/// What came of an unbind: a line for each device that went back, and why others did not.
pub type Outcome = (Vec<String>, Vec<BindError>);

/// Gives devices back, and with each those that were bound along with it and its virtual functions,
/// where these go with it. Of several named devices, why one cannot go is one of the errors that come
/// out, and keeps the others from nothing.
///
/// # Errors
/// What is wrong, with the one device that is named too; then nothing was done.
pub fn unbind(host: &Host, request: &UnbindRequest) -> Result<Outcome, BindError> {
    let (lock, mended) = if request.dry_run {
        (None, Vec::new())
    } else {
        let (lock, mended) = begin(host)?;
        (Some(lock), mended)
    };
    let mut named = Vec::new();
    for address in &request.addresses {
        let bdf = parse(address)?;
        if !named.contains(&bdf) {
            named.push(bdf);
        }
    }
    let mut outcome = Outcome::default();
    let mut going: Vec<Going> = Vec::new();
    for bdf in &named {
        let found = find(host, *bdf, &mended, &going).and_then(|found| {
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
    // Mended is from the last to the first.
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

/// The steps as commands, but for a group's node that stays with another device's user.
fn printed(host: &Host, going: &[Going]) -> Result<Vec<String>, BindError> {
    let bdfs: Vec<_> = going.iter().map(|(back, _)| back.bdf()).collect();
    let mut lines = Vec::new();
    for (back, plan) in going {
        let kept = match back {
            Back::To(record) if heir(host, record, &bdfs)?.is_some() => group_node(host, record),
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

/// Killed on the way, the device goes back at the next command.
fn entry((back, _): &Going) -> Option<Entry> {
    match back {
        Back::To(record) => Some(Entry {
            bdf: record.bdf,
            before: None,
        }),
        _ => None,
    }
}

/// Gives back what was bound for a run. Returns what could not be; that has another owner by now, or
/// goes back at a later command.
///
/// # Errors
/// When the records cannot be locked or read.
pub fn release_run(host: &Host, run: Process) -> Result<Outcome, BindError> {
    let _lock = host.records.lock()?;
    end_what_was_begun(host)?;
    let mut outcome = Outcome::default();
    for record in host.records.all()?.into_iter().rev() {
        if record.owner != Some(run) {
            continue;
        }
        let back = Back::To(record);
        // Another process may have opened what this run has closed.
        let free = back.plan(host).and_then(|plan| {
            plan.map_or(Ok(()), |(now, steps)| check_released(host, &now, &steps))
        });
        match free.and_then(|()| carry_out(host, back)) {
            Ok(line) => outcome.0.push(line),
            Err(e) => outcome.1.push(e),
        }
    }
    Ok(outcome)
}

/// A named device and what goes with it, which comes first; but for what is going already.
fn find(host: &Host, named: Bdf, mended: &[Bdf], going: &[Going]) -> Result<Vec<Going>, BindError> {
    let plan = back(host, named, mended)?.plan(host)?;
    let functions = match plan {
        Some((_, steps)) if takes_functions(&steps) => virtual_functions(&host.sysfs, named),
        _ => Vec::new(),
    };
    let records = host.records.all()?.into_iter();
    let along = records.filter(|r| r.along == Some(named) || functions.contains(&r.bdf));
    let mut found = Vec::new();
    for bdf in along.map(|r| r.bdf).chain([named]) {
        if going.iter().all(|(back, _)| back.bdf() != bdf) {
            let back = back(host, bdf, mended)?;
            let plan = back.plan(host)?;
            found.push((back, plan));
        }
    }
    Ok(found)
}

/// Whether all of these can go. What was named is behind what goes along, and says more.
fn check(host: &Host, found: &[Going]) -> Result<(), BindError> {
    for (now, steps) in found.iter().rev().filter_map(|(_, plan)| plan.as_ref()) {
        check_owner(host, now, None)?;
        check_released(host, now, steps)?;
    }
    Ok(())
}

fn back(host: &Host, bdf: Bdf, mended: &[Bdf]) -> Result<Back, BindError> {
    let record = host.records.load(bdf)?;
    Ok(match (record, Facts::read(&host.sysfs, bdf)?) {
        (Some(record), Some(now)) if record.is_of(&now) => Back::To(record),
        (_, Some(now)) if now.device.is_vfio() => Back::Free(now),
        // What a killed command or run had has just gone back.
        (_, Some(_)) if mended.contains(&bdf) => Back::Done(bdf),
        // Whoever took it from its driver was killed, or has forgotten it.
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
