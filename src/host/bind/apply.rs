//! Carries plans out, and takes them back.
//!
//! What a device was is in its record before its first change. Taking back is then not a list of
//! inverse steps but the same question every time: what is between the device as it is and as its
//! record says it was ([`plan::give_back`])? So a failed bind, an unbind, the end of a run and the
//! mending after a crash are one piece of code.

use std::path::PathBuf;
use std::{fs, io};

use pci::Bdf;
use tracing::{debug, warn};

use crate::bind::driver::Driver;
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, unreadable};
use crate::bind::plan::{Step, Target};
use crate::bind::record::Record;
use crate::bind::{Host, plan};

/// Loads a driver, if it is not there.
pub(super) fn load(host: &Host, driver: &Driver) -> Result<(), BindError> {
    let dir = host.driver_path(&driver.name);
    if dir.exists() {
        return Ok(());
    }
    debug!("modprobe {}", driver.module);
    let outcome = host.kernel.load(&driver.module).and_then(|()| {
        let there = dir.exists();
        there
            .then_some(())
            .ok_or_else(|| io::Error::other("it was loaded, and the driver is not there"))
    });
    outcome.map_err(|source| BindError::NoDriver {
        module: driver.module.clone(),
        source,
    })
}

fn write(host: &Host, path: PathBuf, text: &str) -> Result<(), BindError> {
    debug!("echo {} > {}", text.trim(), path.display());
    host.kernel
        .write(&path, text)
        .map_err(|source| BindError::Write {
            path,
            text: text.trim().to_owned(),
            source,
        })
}

fn driver_of(host: &Host, bdf: Bdf) -> Result<Option<String>, BindError> {
    let device = host.sysfs.device(bdf);
    let device = device.map_err(unreadable(format!("PCI device {bdf}")))?;
    Ok(device.and_then(|d| d.driver))
}

/// A device must have this driver now: a write that starts a probe does not always tell how it went.
fn check_taken(host: &Host, bdf: Bdf, wanted: &str) -> Result<(), BindError> {
    let has = driver_of(host, bdf)?;
    if has.as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(BindError::NotTaken {
        bdf,
        wanted: wanted.to_owned(),
        has,
    })
}

/// One step on a device that is being given back, or on one that is taken and needs no record more.
pub(super) fn carry_out(host: &Host, step: &Step) -> Result<(), BindError> {
    let device = |bdf: &Bdf, name: &str| host.sysfs.device_path(*bdf).join(name);
    match step {
        Step::Load(driver) => load(host, driver),
        Step::Override { bdf, to } => {
            // A line without a text removes the override.
            let text = format!("{}\n", to.as_deref().unwrap_or_default());
            write(host, device(bdf, "driver_override"), &text)
        }
        Step::Unbind { bdf, driver } => {
            let path = host.driver_path(driver).join("unbind");
            write(host, path, &bdf.to_string())
        }
        Step::Probe { bdf, wanted } => {
            write(
                host,
                host.sysfs.path("bus/pci/drivers_probe"),
                &bdf.to_string(),
            )?;
            wanted
                .as_ref()
                .map_or(Ok(()), |w| check_taken(host, *bdf, w))
        }
        Step::Bind { bdf, driver } => {
            // A driver that was just loaded has looked for devices itself.
            if driver_of(host, *bdf)?.as_ref() == Some(driver) {
                return Ok(());
            }
            let path = host.driver_path(driver).join("bind");
            write(host, path, &bdf.to_string())?;
            check_taken(host, *bdf, driver)
        }
        Step::Autoprobe { bdf, on } => {
            let text = if *on { "1" } else { "0" };
            write(host, device(bdf, "sriov_drivers_autoprobe"), text)
        }
        Step::Functions { bdf, count } => {
            write(host, device(bdf, "sriov_numvfs"), &count.to_string())
        }
        Step::Own { uid, gid, .. } => match node_of(host, step) {
            Some(path) if path.exists() => {
                debug!("chown {uid} {}", path.display());
                let outcome = host.kernel.chown(&path, *uid, *gid);
                outcome.map_err(|source| BindError::Own { path, source })
            }
            // With its device gone from VFIO there is no node to take away.
            _ => Ok(()),
        },
        Step::TakeFunctions { .. } => Ok(()),
    }
}

/// Where the node of a step is; `None` when the device has none, or the step is about none.
pub(super) fn node_of(host: &Host, step: &Step) -> Option<PathBuf> {
    let Step::Own { bdf, target, .. } = step else {
        return None;
    };
    match target {
        Target::Group(group) => Some(host.places.dev.join("vfio").join(group.to_string())),
        Target::Device(_) => device_node(host, *bdf),
        Target::Path(path) => Some(path.clone()),
    }
}

/// A device's own node, if it has one now.
fn device_node(host: &Host, bdf: Bdf) -> Option<PathBuf> {
    let dir = host.sysfs.device_path(bdf).join("vfio-dev");
    let name = fs::read_dir(dir).ok()?.next()?.ok()?.file_name();
    Some(host.places.dev.join("vfio/devices").join(name))
}

/// The node that a step makes another's; `None` when it is not there, or theirs already.
pub(super) fn changes_hands(host: &Host, step: &Step) -> Option<PathBuf> {
    let Step::Own { uid, .. } = step else {
        return None;
    };
    let path = node_of(host, step)?;
    let (owner, _) = host.kernel.owner(&path).ok()?;
    (owner != *uid).then_some(path)
}

/// Makes a device what its record says it was, and forgets the record.
pub(super) fn give_back(host: &Host, bdf: Bdf) -> Result<(), BindError> {
    let Some(record) = host.records.load(bdf)? else {
        return Ok(());
    };
    let record = hand_on(host, record)?;
    put_back(host, &record)?;
    host.records.remove(record.bdf)
}

/// Makes a device what it was before a change: what its record of then says, or all of what it was
/// before there was one.
pub(super) fn restore(host: &Host, bdf: Bdf, before: Option<Record>) -> Result<(), BindError> {
    let Some(before) = before else {
        return give_back(host, bdf);
    };
    if let Some(now) = host.records.load(bdf)? {
        put_back(host, &added(&before, now))?;
    }
    host.records.save(&before)
}

/// What a record has more than the one before it. The virtual functions are the change's if the one
/// before has none.
fn added(before: &Record, now: Record) -> Record {
    Record {
        nodes: now
            .nodes
            .into_iter()
            .filter(|n| !before.nodes.contains(n))
            .collect(),
        functions: now.functions.filter(|_| before.functions.is_none()),
        autoprobe: now.autoprobe,
        bound: None,
        ..before.clone()
    }
}

fn put_back(host: &Host, record: &Record) -> Result<(), BindError> {
    let bdf = record.bdf;
    let Some(now) = Facts::read(&host.sysfs, bdf)?.filter(|now| record.is_of(now)) else {
        warn!("PCI device {bdf} is gone, or another is in its place: it is left as it is");
        return Ok(());
    };
    for step in steps_back(host, record, &now) {
        carry_out(host, &step)?;
    }
    Ok(())
}

/// The plan to give a device back.
pub(super) fn steps_back(host: &Host, record: &Record, now: &Facts) -> Vec<Step> {
    let had = record.driver.as_ref();
    let loaded = had.is_none_or(|name| host.driver_path(name).exists());
    let mut steps = plan::give_back(record, now, loaded);
    steps.retain(|step| match step {
        Step::Own { target, .. } => {
            changes_hands(host, step).is_some() && !is_stale(host, record, now, target)
        }
        _ => true,
    });
    steps
}

/// Whether a device's own node is not the device's any more: with its VFIO driver it goes, and the
/// next device that is bound gets its name.
fn is_stale(host: &Host, record: &Record, now: &Facts, target: &Target) -> bool {
    let Target::Path(path) = target else {
        return false;
    };
    if !path.starts_with(host.places.dev.join("vfio/devices")) {
        return false;
    }
    // What a change has added to a record says nothing of a driver.
    let rebound = record.bound.is_some() && now.device.driver != record.bound;
    rebound || device_node(host, record.bdf).as_ref() != Some(path)
}

/// The node of a record's group.
pub(super) fn group_node(host: &Host, record: &Record) -> Option<PathBuf> {
    let group = record.group?.to_string();
    Some(host.places.dev.join("vfio").join(group))
}

/// The record of another device of the group that is bound for the user who has the group's node, if
/// that is this record's user or one who got it later. Those that `going` names are none.
pub(super) fn heir(
    host: &Host,
    record: &Record,
    going: &[Bdf],
) -> Result<Option<Record>, BindError> {
    let (Some(user), Some(path)) = (record.user, group_node(host, record)) else {
        return Ok(None);
    };
    let has = host.kernel.owner(&path).map_or(user, |(uid, _)| uid);
    Ok(host.records.all()?.into_iter().find(|other| {
        other.bdf != record.bdf
            && other.group == record.group
            && other.user == Some(has)
            && !going.contains(&other.bdf)
    }))
}

/// A group's node stays with its user as long as another device of the group is bound for the same:
/// that one's record takes it on.
fn hand_on(host: &Host, mut record: Record) -> Result<Record, BindError> {
    let Some(mut heir) = heir(host, &record, &[])? else {
        return Ok(record);
    };
    let path = group_node(host, &record);
    let (shared, own): (Vec<_>, Vec<_>) = record
        .nodes
        .into_iter()
        .partition(|n| Some(&n.path) == path.as_ref());
    record.nodes = own;
    if !shared.is_empty() {
        // Whose it was first comes first.
        heir.nodes.splice(..0, shared);
        host.records.save(&heir)?;
    }
    Ok(record)
}

/// Gives a device of which there is no record to whatever driver wants it.
pub(super) fn let_go(host: &Host, now: &Facts) -> Result<(), BindError> {
    for step in plan::let_go(now) {
        carry_out(host, &step)?;
    }
    Ok(())
}
