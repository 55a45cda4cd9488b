//! `host bind`: selects devices, checks them, and binds them in one transaction.

use crate::bind::apply::{changes_hands, driver_for};
use crate::bind::call::check_none;
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, unreadable};
use crate::bind::functions::make_functions;
use crate::bind::host::Host;
use crate::bind::recover::{check_owner, lock_for, with_siblings};
use crate::bind::request::BindRequest;
use crate::bind::select::{Wanted, check_free, named, parse_pci, with_group};
use crate::bind::transaction::Transaction;
use crate::bind::user::User;
use crate::bind::{lasting, messages, plan};

/// Binds all of the devices, or changes nothing. Returns the messages, one line each.
///
/// A device that has a VFIO driver already keeps that driver. A device is refused if host drivers
/// have other devices of its group: the host would lose the device, and no guest could use it.
///
/// # Errors
/// The request is invalid, or a step failed. After a failed step, all changes are undone. If that
/// also fails, the error names the changes that remain.
pub fn bind(host: &Host, request: &BindRequest) -> Result<Vec<String>, BindError> {
    let user = request.user.as_deref().map(User::find).transpose()?;
    let addresses = request.addresses.iter().map(|address| parse_pci(address));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let lock = if request.dry_run {
        None
    } else {
        Some(lock_for(host, &addresses)?)
    };
    for bdf in with_siblings(host, &addresses, request.group) {
        check_none(host, bdf)?;
    }
    let named = named(host, &request.addresses)?;
    let mut lines = match request.functions {
        Some(count) => make_functions(host, request, &named, count, user.as_ref()),
        None => bind_devices(host, request, named, user.as_ref()),
    }?;
    drop(lock);
    if request.persist && !request.dry_run {
        lines.extend(lasting::update_initramfs(host)?);
    }
    Ok(lines)
}

/// Refuses a physical function that has virtual functions: when its driver is unbound, the driver
/// removes the virtual functions, even if they are in use.
fn check_functions(facts: &Facts) -> Result<(), BindError> {
    let made = facts.functions.map_or(0, |functions| functions.made);
    if made == 0 || facts.device.is_vfio() {
        return Ok(());
    }
    Err(BindError::WouldLoseFunctions {
        bdf: facts.bdf(),
        made,
    })
}

/// Refuses a device that has mediated devices: when its driver is unbound, the driver removes them
/// (Documentation/driver-api/vfio-mediated-device.rst).
fn check_mediated(host: &Host, facts: &Facts) -> Result<(), BindError> {
    if facts.device.is_vfio() {
        return Ok(());
    }
    let bdf = facts.bdf();
    let found = host.sysfs.mediated_of(&facts.device.path);
    let uuids = found.map_err(unreadable(format!("the mediated devices of {bdf}")))?;
    if uuids.is_empty() {
        return Ok(());
    }
    Err(BindError::WouldLoseMediated { bdf, uuids })
}

fn bind_devices(
    host: &Host,
    request: &BindRequest,
    named: Vec<Facts>,
    user: Option<&User>,
) -> Result<Vec<String>, BindError> {
    let wanted = with_group(host, named, request.group)?;
    for device in &wanted {
        check_owner(host, &device.facts, request.owner)?;
        if !request.force {
            check_free(host, &device.facts.device, request.owner.is_some())?;
        }
        // --force does not skip these checks: a rollback could not restore the lost devices.
        check_functions(&device.facts)?;
        check_mediated(host, &device.facts)?;
    }
    if request.dry_run {
        return dry_run(host, &wanted, user, request);
    }
    // All modules are loaded before the first change, so that a failed load changes nothing.
    let drivers = wanted
        .iter()
        .map(|w| driver_for(host, w.facts.bdf(), &w.facts.modalias));
    let drivers = drivers.collect::<Result<Vec<_>, _>>()?;
    let kept = match request.persist {
        true => lasting::describe(host, &wanted, &drivers, user)?,
        false => Vec::new(),
    };
    let changes = |w: &&Wanted| !w.facts.device.is_vfio() || user.is_some();
    let bdfs = wanted.iter().filter(changes).map(|w| w.facts.bdf());
    let mut transaction = Transaction::begin(host, request.owner, user, bdfs)?;
    for (device, driver) in wanted.iter().zip(&drivers) {
        let facts = &device.facts;
        let outcome = match user {
            _ if !facts.device.is_vfio() => transaction.take(facts, driver, device.along),
            Some(user) => transaction.keep(facts, user),
            None => Ok(()),
        };
        if let Err(e) = outcome {
            return Err(transaction.undo(e));
        }
    }
    let records = transaction.end()?;
    let devices = wanted.iter().zip(&drivers);
    let mut lines: Vec<_> = devices.map(|(w, d)| messages::bound(&w.facts, d)).collect();
    lines.extend(user.map_or(Vec::new(), |user| {
        messages::about_user(host, &records, user)
    }));
    // After the bind, so that a device that cannot be bound now is not bound at the next boot.
    lines.extend(lasting::keep(host, &kept)?);
    Ok(lines)
}

/// The plans as shell commands.
fn dry_run(
    host: &Host,
    wanted: &[Wanted],
    user: Option<&User>,
    request: &BindRequest,
) -> Result<Vec<String>, BindError> {
    let (mut drivers, mut steps) = (Vec::new(), Vec::new());
    for facts in wanted.iter().map(|w| &w.facts) {
        if !facts.device.is_vfio() {
            let driver = host.choose(&facts.modalias);
            steps.extend(plan::take(facts, &driver, user));
            drivers.push(driver);
        } else if let Some(user) = user {
            let own = plan::own(facts, user).into_iter();
            steps.extend(own.filter(|step| changes_hands(host, step).is_some()));
        }
    }
    let mut lines = messages::dry_run(host, &drivers, &steps);
    for facts in wanted
        .iter()
        .map(|w| &w.facts)
        .filter(|facts| !facts.device.is_vfio())
    {
        lines.extend(messages::uses(host, facts, request.force));
    }
    if request.persist {
        let drivers = wanted.iter().map(|w| host.choose(&w.facts.modalias));
        let devices = lasting::describe(host, wanted, &drivers.collect::<Vec<_>>(), user)?;
        lines.extend(lasting::commands(host, &devices));
    }
    Ok(lines)
}
