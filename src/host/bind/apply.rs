//! Executes plans, and gives devices back.
//!
//! A device's record holds the device's state before its first change. Undoing is therefore not a
//! list of inverse steps: [`plan::give_back`] compares the device's current state with its record,
//! and plans the steps between the two. A failed bind, an unbind, the end of a run and the recovery
//! after a crash all use this one function.

use std::path::PathBuf;
use std::{fs, io};

use pci::Bdf;
use tracing::{debug, warn};

use crate::bind::driver::Driver;
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, unreadable};
use crate::bind::functions_error::FunctionsError;
use crate::bind::host::Host;
use crate::bind::plan;
use crate::bind::plan::{Step, Target};
use crate::bind::record::Record;

/// Loads a driver if it is not loaded.
pub(super) fn load(host: &Host, driver: &Driver) -> Result<(), BindError> {
    let dir = host.driver_path(&driver.name);
    if dir.exists() {
        return Ok(());
    }
    debug!("modprobe {}", driver.module);
    let outcome = host.kernel.load(&driver.module).and_then(|()| {
        let found = dir.exists();
        found
            .then_some(())
            .ok_or_else(|| io::Error::other("the module was loaded, but has no such driver"))
    });
    outcome.map_err(|source| BindError::NoDriver {
        module: driver.module.clone(),
        source,
    })
}

/// Loads and returns the VFIO driver for a device: vfio-pci if the variant cannot be loaded.
pub(super) fn driver_for(host: &Host, bdf: Bdf, modalias: &str) -> Result<Driver, BindError> {
    let driver = host.choose(modalias);
    match load(host, &driver) {
        Err(e) if driver.is_variant() => {
            warn!("{bdf}: {e}; using vfio-pci instead");
            let generic = Driver::generic();
            load(host, &generic).map(|()| generic)
        }
        outcome => outcome.map(|()| driver),
    }
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

/// Checks that a device has this driver now. A write that starts a probe may return no error
/// although the probe failed.
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

/// Executes one step that needs no change of a record.
pub(super) fn carry_out(host: &Host, step: &Step) -> Result<(), BindError> {
    let device = |bdf: &Bdf, name: &str| host.sysfs.device_path(*bdf).join(name);
    match step {
        Step::Load(driver) => load(host, driver),
        Step::Override { bdf, to } => {
            // An empty line removes the override.
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
            // A driver that was just loaded may have bound the device itself.
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
        Step::Functions { bdf, count } => make_functions(host, *bdf, *count),
        Step::Own { uid, gid, .. } => match node_of(host, step) {
            Some(path) if path.exists() => {
                debug!("chown {uid} {}", path.display());
                let outcome = host.kernel.chown(&path, *uid, *gid);
                outcome.map_err(|source| BindError::Own { path, source })
            }
            // The node is removed together with the VFIO driver.
            _ => Ok(()),
        },
        Step::TakeFunctions { .. } => Ok(()),
    }
}

/// Makes virtual functions, or removes them if `count` is 0. The kernel may make fewer and report
/// success (drivers/pci/iov.c, `sriov_numvfs_store`).
fn make_functions(host: &Host, bdf: Bdf, count: u32) -> Result<(), BindError> {
    let path = host.sysfs.device_path(bdf).join("sriov_numvfs");
    match write(host, path.clone(), &count.to_string()) {
        Err(BindError::Write { source, .. })
            if count > 0 && source.raw_os_error() != Some(libc::EACCES) =>
        {
            return Err(FunctionsError::Refused {
                bdf,
                asked: count,
                source,
            }
            .into());
        }
        outcome => outcome?,
    }
    let text = fs::read_to_string(path).map_err(unreadable(format!("PCI device {bdf}")))?;
    match text.trim().parse() {
        Ok(made) if made < count => Err(FunctionsError::Fewer {
            bdf,
            made,
            asked: count,
        }
        .into()),
        _ => Ok(()),
    }
}

/// The path of the node that a step concerns; `None` if the step concerns no node or the device has
/// no node.
pub(super) fn node_of(host: &Host, step: &Step) -> Option<PathBuf> {
    let Step::Own { bdf, target, .. } = step else {
        return None;
    };
    match target {
        Target::Group(group) => Some(host.paths.dev.join("vfio").join(group.to_string())),
        Target::Device(_) => device_node(host, *bdf),
        Target::Path(path) => Some(path.clone()),
    }
}

/// The path of the device's own node, for iommufd, if the device has a node now.
fn device_node(host: &Host, bdf: Bdf) -> Option<PathBuf> {
    let dir = host.sysfs.device_path(bdf).join("vfio-dev");
    let name = fs::read_dir(dir).ok()?.next()?.ok()?.file_name();
    Some(host.paths.dev.join("vfio/devices").join(name))
}

/// The node whose owner a step changes; `None` if there is no such node or it already has that
/// owner.
pub(super) fn changes_hands(host: &Host, step: &Step) -> Option<PathBuf> {
    let Step::Own { uid, .. } = step else {
        return None;
    };
    let path = node_of(host, step)?;
    let (owner, _) = host.kernel.owner(&path).ok()?;
    (owner != *uid).then_some(path)
}

/// Returns a device to the state in its record, and removes the record.
pub(super) fn give_back(host: &Host, bdf: Bdf) -> Result<(), BindError> {
    let Some(record) = host.records.load(bdf)? else {
        return Ok(());
    };
    let record = pass_node_on(host, record)?;
    return_to(host, &record)?;
    host.records.remove(record.bdf)
}

/// Undoes the last change of a device. `before` is the device's record from before that change.
/// What `before` lists stays changed. If `before` is `None`, the device is given back to the host.
pub(super) fn restore(host: &Host, bdf: Bdf, before: Option<Record>) -> Result<(), BindError> {
    let Some(before) = before else {
        return give_back(host, bdf);
    };
    if let Some(now) = host.records.load(bdf)? {
        return_to(host, &added(&before, now))?;
    }
    host.records.save(&before)
}

/// Makes a record of the changes between `before` and `now`. If `before` has no virtual functions,
/// the change made them.
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

fn return_to(host: &Host, record: &Record) -> Result<(), BindError> {
    let bdf = record.bdf;
    let Some(now) = Facts::read(&host.sysfs, bdf)?.filter(|now| record.is_of(now)) else {
        warn!("PCI device {bdf} is gone or replaced by another device, which is left alone");
        return Ok(());
    };
    for step in steps_back(host, record, &now) {
        carry_out(host, &step)?;
    }
    Ok(())
}

/// Plans the steps that give a device back.
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

/// Whether a node under /dev/vfio/devices belongs to another device now. The node is removed with
/// the device's VFIO driver, and the kernel gives its name to the next device that is bound.
fn is_stale(host: &Host, record: &Record, now: &Facts, target: &Target) -> bool {
    let Target::Path(path) = target else {
        return false;
    };
    if !path.starts_with(host.paths.dev.join("vfio/devices")) {
        return false;
    }
    // A record made by `added` has no driver.
    let rebound = record.bound.is_some() && now.device.driver != record.bound;
    rebound || device_node(host, record.bdf).as_ref() != Some(path)
}

/// The node of the IOMMU group of a record's device.
pub(super) fn group_node(host: &Host, record: &Record) -> Option<PathBuf> {
    let group = record.group?.to_string();
    Some(host.paths.dev.join("vfio").join(group))
}

/// Finds another bound device of the group whose user owns the group's node now. Devices in `going`
/// do not count.
pub(super) fn next_owner(
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

/// Moves the group's node from this record to the record of [`next_owner`], if there is such a
/// record: the user keeps the node while another device of the group is bound for that user.
fn pass_node_on(host: &Host, mut record: Record) -> Result<Record, BindError> {
    let Some(mut next_owner) = next_owner(host, &record, &[])? else {
        return Ok(record);
    };
    let path = group_node(host, &record);
    let (shared, own): (Vec<_>, Vec<_>) = record
        .nodes
        .into_iter()
        .partition(|n| Some(&n.path) == path.as_ref());
    record.nodes = own;
    if !shared.is_empty() {
        // The first entry holds the node's first owner.
        next_owner.nodes.splice(..0, shared);
        host.records.save(&next_owner)?;
    }
    Ok(record)
}

/// Gives a device without a record to any driver that matches it.
pub(super) fn release(host: &Host, now: &Facts) -> Result<(), BindError> {
    for step in plan::release(now) {
        carry_out(host, &step)?;
    }
    Ok(())
}
