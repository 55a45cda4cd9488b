//! Resets the devices before the first boot and at each reboot of the guest.
//!
//! Opening a device resets it alone, if the device has a reset of its own. Before the first boot,
//! the other devices get a hot reset, so that a guest finds nothing of an earlier driver. A reset
//! by power (D3hot and back) may leave parts of the device as they were, so a hot reset is
//! preferred to it, as in QEMU. A hot reset is possible where all functions that it resets are the
//! guest's.
//!
//! At a reboot, and when the guest resets the bus behind a root port, all devices are quiesced
//! first. Then each device is reset: alone, or together with
//! its neighbours. The VMM's registers follow when the guest's bus is reset.

use std::sync::Arc;

use pci::{Bdf, PciFunction};
use tracing::info;

use crate::log::degraded::{self, Code};
use crate::log::error_chain::with_causes;
use crate::vfio::device::{Device, SharedDevice};
use crate::vfio::function::{FunctionError, VfioFunction, snapshot};

/// Resets the devices that opening has not reset, or only by power. Devices with another reset of
/// their own are left alone. The guest accesses no device yet.
///
/// # Errors
/// A device does not answer after its reset.
pub fn before_first_boot(functions: &[Arc<VfioFunction>]) -> Result<(), FunctionError> {
    let ours = names(functions);
    let mut done: Vec<String> = Vec::new();
    for device in functions.iter().filter_map(|f| f.device()) {
        if (device.can_reset() && !device.resets_by_power()) || done.contains(&device.name().into())
        {
            continue;
        }
        let scope = match scope(&*device, &ours) {
            Ok(scope) => scope,
            Err(why) => {
                if !device.can_reset() {
                    tell_none(device.name(), &why);
                }
                continue;
            }
        };
        let together = functions
            .iter()
            .filter(|f| scope.iter().any(|n| n == f.name()));
        together.clone().for_each(|function| {
            function.quiesce_for_reset();
        });
        match device.hot_reset() {
            Ok(()) => info!("{} had a hot reset before the first boot", list(&scope)),
            // Opening has reset it by power.
            Err(e) if device.can_reset() => info!("{}: a reset by power it is", with_causes(&e)),
            Err(e) => tell_none(device.name(), &with_causes(&e)),
        }
        if let Some(dead) = together.clone().find(|f| !answers(f)) {
            return Err(FunctionError::Dead(dead.name().into()));
        }
        together.for_each(|function| function.reset());
        done.extend(scope);
    }
    Ok(())
}

/// Tells that a device is not reset, because it has no reset of its own and of `why`.
pub(super) fn tell_none(device: &str, why: &str) {
    let loss = Code::NoReset.loss(
        "not reset, neither now nor at a guest's reboot: the guest finds what the last driver left",
        format!("the device has no reset of its own, and {why}"),
    );
    let hint = match device.parse::<Bdf>() {
        Ok(_) => {
            "pass all functions of its slot and bus to this guest, if the bus can be reset; switch \
             the host off and on before another guest gets the device"
        }
        Err(_) => "remove the mediated device, and make a new one for the next guest",
    };
    degraded::tell(loss.of(device).hint(hint));
}

/// Resets every device that the guest has. Afterwards each device is quiesced and in D0, whether it
/// was reset or not. The log names the devices that could not be reset.
pub fn devices(functions: &[Arc<VfioFunction>]) {
    // All devices are quiesced before the first reset. No device interrupts or does DMA while
    // another device is reset.
    let quiet: Vec<_> = functions.iter().filter(|f| f.quiesce_for_reset()).collect();
    reset_quiet(&quiet, &names(functions));
}

/// Resets the functions behind a root port, whose secondary bus is in reset or whose link is down.
/// A hot reset is possible where its scope is these functions: others of the guest go on. Meanwhile
/// the functions read as ones, and only the calling vCPU waits.
pub fn behind_port(functions: &[Arc<VfioFunction>]) {
    let quiet: Vec<_> = functions.iter().filter(|f| f.begin_bus_reset()).collect();
    reset_quiet(&quiet, &names(functions));
    quiet.iter().for_each(|function| function.end_bus_reset());
}

/// Resets the devices of functions that are quiesced. `ours` are the functions that a hot reset may
/// reset.
fn reset_quiet(quiet: &[&Arc<VfioFunction>], ours: &[String]) {
    // Devices that can be reset alone come first. A reference to a device is held only during its
    // own reset, because the host may ask for the device meanwhile.
    let mut left = Vec::new();
    for function in quiet {
        let Some(device) = function.device() else {
            continue;
        };
        if device.resets_by_power() {
            left.push((*function, None));
        } else if let Err(failure) = alone(&device) {
            left.push((*function, failure));
        }
    }
    let mut done: Vec<String> = Vec::new();
    for (function, failure) in left {
        let Some(device) = function.device() else {
            continue;
        };
        // An unbind holds the kernel's lock of the device until the device is closed
        // (drivers/base/dd.c, device_release_driver): no reset gets the lock (EAGAIN). The guest
        // loses the device in any case.
        if function.is_wanted() {
            continue;
        }
        if !done.iter().any(|d| d == device.name()) {
            done.extend(together(&device, failure, ours));
        }
    }
    for function in quiet {
        if function.device().is_some() && !answers(function) && function.disconnect() {
            let loss = Code::DeviceDead.loss(
                "removed from the guest, which goes on",
                "the registers read as all ones after the reset",
            );
            let hint = FunctionError::Dead(function.name().into()).hint();
            degraded::tell(loss.of(function.name()).hint(hint.unwrap_or_default()));
        }
    }
}

/// Resets a device with its neighbours, or by power where that is not possible. `failure` is the
/// failure of the device's own reset. Returns the functions that need no further reset.
fn together(device: &SharedDevice, failure: Option<String>, ours: &[String]) -> Vec<String> {
    let name = device.name().to_string();
    let failure = match scope(&**device, ours) {
        Ok(scope) => match device.hot_reset() {
            Ok(()) => {
                info!("{} had a hot reset", list(&scope));
                // One hot reset serves all of these devices.
                return scope;
            }
            Err(e) => {
                let failure = Some(with_causes(&e));
                if !device.resets_by_power() {
                    tell_failed(&name, failure, &scope);
                    return scope;
                }
                failure
            }
        },
        Err(_) => failure,
    };
    let failure = match device.resets_by_power() {
        true => match alone(device) {
            Ok(()) => return vec![name],
            Err(failure) => failure,
        },
        false => failure,
    };
    // The user knows already of a device that has no reset. A dead one is removed later.
    if failure.is_some() && snapshot::answers(&**device) {
        tell_failed(&name, failure, std::slice::from_ref(&name));
    }
    vec![name]
}

fn tell_failed(device: &str, failure: Option<String>, left: &[String]) {
    let what = format!(
        "the guest finds what the last driver left in {}",
        list(left)
    );
    let loss = Code::ResetFailed.loss(what, failure.unwrap_or_default());
    degraded::tell(loss.of(device).hint(format!(
        "end the guest, and give the device a rest: as root, echo 1 > \
         /sys/bus/pci/devices/{device}/reset; see `dmesg | grep {device}`"
    )));
}

/// Resets a device alone. The error is `None` if the device has no reset, or else the text of the
/// failure.
fn alone(device: &SharedDevice) -> Result<(), Option<String>> {
    if !device.can_reset() {
        return Err(None);
    }
    match device.reset() {
        Ok(()) if snapshot::answers(&**device) => {
            info!("{} was reset", device.name());
            Ok(())
        }
        Ok(()) => Err(Some(format!(
            "{} does not answer after its reset",
            device.name()
        ))),
        Err(e) => Err(Some(with_causes(&e))),
    }
}

/// Whether the function's device answers.
fn answers(function: &Arc<VfioFunction>) -> bool {
    function
        .device()
        .is_none_or(|device| snapshot::answers(&*device))
}

/// Returns the functions that a hot reset of the device would reset. If some are not `ours`,
/// returns the reason why a hot reset is not possible.
pub(super) fn scope(device: &dyn Device, ours: &[String]) -> Result<Vec<String>, String> {
    let scope = device
        .hot_reset_scope()
        .map_err(|_| "its bus cannot be reset".to_string())?;
    match scope.iter().find(|name| !ours.contains(name)) {
        Some(other) => Err(format!(
            "a reset of its bus would reset {other}, which is not this guest's"
        )),
        None => Ok(scope),
    }
}

/// The names of the functions whose device is still open.
fn names(functions: &[Arc<VfioFunction>]) -> Vec<String> {
    let held = functions.iter().filter(|f| f.device().is_some());
    held.map(|f| f.name().to_string()).collect()
}

fn list(names: &[String]) -> String {
    names.join(" and ")
}
