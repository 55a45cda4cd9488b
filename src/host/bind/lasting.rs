//! `--persist` of `host bind` and `host unbind`: the files beside the bind itself. What they say is
//! in [`crate::persist`].

use std::time::Duration;

use pci::Bdf;

use crate::bind::driver::Driver;
use crate::bind::error::BindError;
use crate::bind::host::Host;
use crate::bind::select::Wanted;
use crate::bind::user::User;
use crate::persist::{Change, Files, PersistError, Persistent};

/// The time for the initramfs of all kernels.
const INITRAMFS_LIMIT: Duration = Duration::from_secs(900);

/// The devices of a bind, as their rules describe them. A device that has a VFIO driver keeps that
/// one.
///
/// # Errors
/// A rule names another device at one of the addresses, or no rule can keep a device from a driver
/// that is built into the kernel.
pub(super) fn describe(
    host: &Host,
    wanted: &[Wanted],
    drivers: &[Driver],
    user: Option<&User>,
) -> Result<Vec<Persistent>, BindError> {
    let files = Files::of(&host.paths);
    let mut devices = Vec::new();
    for (wanted, driver) in wanted.iter().zip(drivers) {
        let facts = &wanted.facts;
        if let Some(driver) = host.built_in(&facts.modalias) {
            let bdf = facts.bdf();
            return Err(PersistError::BuiltIn { bdf, driver }.into());
        }
        let has = facts
            .device
            .driver
            .as_ref()
            .filter(|_| facts.device.is_vfio());
        let (name, module) = match has {
            Some(has) => (has, facts.module.as_ref().unwrap_or(has)),
            None => (&driver.name, &driver.module),
        };
        let mut device = Persistent::of(&host.sysfs, &facts.device, name, module);
        device.along = wanted.along;
        device.user = user.map(|user| user.uid);
        files.check(&device)?;
        devices.push(device);
    }
    Ok(devices)
}

/// Writes the rules. Returns a line for each device.
pub(super) fn keep(host: &Host, devices: &[Persistent]) -> Result<Vec<String>, BindError> {
    let files = Files::of(&host.paths);
    for change in files.changes(devices) {
        change.make()?;
    }
    let line = |device: &Persistent| {
        let (bdf, driver) = (device.device, &device.driver);
        format!(
            "{bdf}: {driver} at each boot, by {}",
            files.rule(bdf).display()
        )
    };
    Ok(devices.iter().map(line).collect())
}

/// The rules as shell commands.
pub(super) fn commands(host: &Host, devices: &[Persistent]) -> Vec<String> {
    let changes = Files::of(&host.paths).changes(devices);
    changes.iter().flat_map(Change::commands).collect()
}

/// The removal of the rules of these devices, as shell commands.
pub(super) fn commands_back(host: &Host, bdfs: &[Bdf]) -> Result<Vec<String>, BindError> {
    let changes = Files::of(&host.paths).changes_back(bdfs)?;
    Ok(changes.iter().flat_map(Change::commands).collect())
}

/// Adds the devices that were made persistent along with these.
///
/// # Errors
/// The rules cannot be read.
pub(super) fn add_along(host: &Host, bdfs: &mut Vec<Bdf>) -> Result<(), BindError> {
    for device in Files::of(&host.paths).all()? {
        let along = device.along.is_some_and(|along| bdfs.contains(&along));
        if along && !bdfs.contains(&device.device) {
            bdfs.push(device.device);
        }
    }
    Ok(())
}

/// Those of these devices that have a rule, also one that cannot be read.
pub(super) fn with_rule(host: &Host, bdfs: &[Bdf]) -> Vec<Bdf> {
    let files = Files::of(&host.paths);
    let bdfs = bdfs.iter().copied();
    bdfs.filter(|bdf| files.rule(*bdf).exists()).collect()
}

/// Removes the rules of these devices. Returns a line for each.
///
/// # Errors
/// A file cannot be removed.
pub(super) fn forget(host: &Host, bdfs: &[Bdf]) -> Result<Vec<String>, BindError> {
    for change in Files::of(&host.paths).changes_back(bdfs)? {
        change.make()?;
    }
    let line = |bdf| format!("{bdf}: with the host's driver at each boot");
    Ok(bdfs.iter().map(line).collect())
}

/// Says of devices that were given back that the next boot binds them again.
pub(super) fn notes(host: &Host, bdfs: &[Bdf]) -> Vec<String> {
    let note = |bdf| {
        format!(
            "note: {bdf} gets its VFIO driver again at the next boot; \
             `mini-vmm host unbind {bdf} --persist` ends that"
        )
    };
    with_rule(host, bdfs).iter().map(note).collect()
}

/// Makes the initramfs anew, on a host that makes its own. Call this without the lock, because it
/// takes minutes on some hosts.
///
/// # Errors
/// The command fails, or does not end.
pub(super) fn update_initramfs(host: &Host) -> Result<Vec<String>, BindError> {
    let Some(command) = Files::of(&host.paths).update() else {
        return Ok(Vec::new());
    };
    let text = command.join(" ");
    host.kernel
        .run(command, INITRAMFS_LIMIT)
        .map_err(|source| PersistError::Initramfs {
            command: text.clone(),
            source,
        })?;
    Ok(vec![format!("the initramfs is new: {text}")])
}
