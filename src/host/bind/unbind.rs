//! The way back: what was bound here becomes what it was; what somebody else bound, what the kernel
//! makes of it.
//!
//! Unlike a bind, this is done as far as it goes: a device that cannot be given back keeps its record,
//! and the others go back all the same. To take them again would be further from what was asked for.

use super::Host;
use super::apply::{give_back, group_node, heir, let_go, node_of, steps_back};
use super::error::BindError;
use super::facts::{Facts, virtual_functions};
use super::journal::Entry;
use super::mend::{begin, check_owner, end_what_was_begun};
use super::plan::{self, Step};
use super::record::Record;
use super::released::{check_released, takes_functions};
use super::select::parse;
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
/// where these go with it. A device that there is nothing to give back of is one of the errors that
/// come out, and keeps the others from nothing.
///
/// # Errors
/// What is wrong; then nothing was done.
pub fn unbind(host: &Host, request: &UnbindRequest) -> Result<Outcome, BindError> {
    let (lock, mended) = if request.dry_run {
        (None, Vec::new())
    } else {
        let (lock, mended) = begin(host)?;
        (Some(lock), mended)
    };
    let backs = find(host, &request.addresses, &mended)?;
    let plans: Result<Vec<_>, _> = backs.iter().map(|back| back.plan(host)).collect();
    let plans = plans?;
    if !request.force {
        // What was named is behind what goes along, and says more.
        for (now, steps) in plans.iter().rev().flatten() {
            check_owner(host, now, None)?;
            check_released(host, now, steps)?;
        }
    }
    let mut outcome = Outcome::default();
    if request.dry_run {
        outcome.0 = printed(host, &backs, &plans)?;
        outcome.1 = backs.iter().filter_map(never).collect();
        return Ok(outcome);
    }
    // Mended is from the last to the first.
    let entries: Vec<_> = backs.iter().rev().filter_map(entry).collect();
    host.records.begin(&entries)?;
    for back in backs {
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
fn printed(
    host: &Host,
    backs: &[Back],
    plans: &[Option<(Facts, Vec<Step>)>],
) -> Result<Vec<String>, BindError> {
    let going: Vec<_> = backs.iter().map(Back::bdf).collect();
    let mut lines = Vec::new();
    for (back, plan) in backs.iter().zip(plans) {
        let kept = match back {
            Back::To(record) if heir(host, record, &going)?.is_some() => group_node(host, record),
            _ => None,
        };
        let steps = plan.iter().flat_map(|(_, steps)| steps);
        let stays = |step: &Step| kept.is_some() && node_of(host, step) == kept;
        lines.extend(steps.filter(|s| !stays(s)).map(Step::to_string));
    }
    Ok(lines)
}

fn never(back: &Back) -> Option<BindError> {
    match back {
        Back::Never(bdf) => Some(BindError::NotBound(*bdf)),
        _ => None,
    }
}

/// Killed on the way, the device goes back at the next command.
fn entry(back: &Back) -> Option<Entry> {
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

/// The named devices and those that go with them, which come first.
fn find(host: &Host, addresses: &[String], mended: &[Bdf]) -> Result<Vec<Back>, BindError> {
    let records = host.records.all()?;
    let mut asked: Vec<Bdf> = Vec::new();
    let mut backs = Vec::new();
    for address in addresses {
        let bdf = parse(address)?;
        let named = back(host, bdf, mended)?;
        let functions = match named.plan(host)? {
            Some((_, steps)) if takes_functions(&steps) => virtual_functions(&host.sysfs, bdf),
            _ => Vec::new(),
        };
        let along = records
            .iter()
            .filter(|r| r.along == Some(bdf) || functions.contains(&r.bdf))
            .map(|r| r.bdf);
        for (bdf, known) in along.map(|bdf| (bdf, None)).chain([(bdf, Some(named))]) {
            if asked.contains(&bdf) {
                continue;
            }
            asked.push(bdf);
            backs.push(known.map_or_else(|| back(host, bdf, mended), Ok)?);
        }
    }
    Ok(backs)
}

fn back(host: &Host, bdf: Bdf, mended: &[Bdf]) -> Result<Back, BindError> {
    let record = host.records.load(bdf)?;
    Ok(match (record, Facts::read(&host.sysfs, bdf)?) {
        (Some(record), Some(now)) if record.is_of(&now) => Back::To(record),
        (_, Some(now)) if now.device.is_vfio() => Back::Free(now),
        // What a killed command or run had has just gone back.
        (_, Some(_)) if mended.contains(&bdf) => Back::Done(bdf),
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
