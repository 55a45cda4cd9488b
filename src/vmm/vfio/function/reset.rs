//! Resets the devices at a guest's reboot. First all devices are quiesced. Then each device is
//! reset: alone, or together with its neighbours where it has no reset of its own. The VMM's
//! registers follow when the guest's bus is reset.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::log::error_chain::with_causes;
use crate::vfio::device::SharedDevice;
use crate::vfio::function::VfioFunction;

/// Logs, at the start, how a reboot will treat devices without a reset of their own.
pub fn announce(functions: &[Arc<VfioFunction>]) {
    let ours = names(functions);
    for device in functions.iter().filter_map(|f| f.device()) {
        if device.can_reset() {
            continue;
        }
        let name = device.name();
        match scope(&device, &ours) {
            Ok(scope) => info!(
                "{name} has no reset of its own: a guest's reboot resets its bus, which is {}",
                list(&scope)
            ),
            Err(why) => {
                warn!("{name} has no reset, and {why}: a guest's reboot leaves it as it is")
            }
        }
    }
}

/// Resets every device that the guest has. Afterwards each device is quiesced and in D0, whether it
/// was reset or not. The log names the devices that could not be reset.
pub fn devices(functions: &[Arc<VfioFunction>]) {
    // All devices are quiesced before the first reset. No device interrupts or does DMA while
    // another device is reset.
    let quiet: Vec<_> = functions.iter().filter(|f| f.quiesce_for_reset()).collect();
    // Devices that can be reset alone come first. A reference to a device is held only during its
    // own reset, because the host may ask for the device meanwhile.
    let mut left = Vec::new();
    for function in quiet {
        if let Some(device) = function.device()
            && let Err(failure) = alone(&device)
        {
            left.push((function, failure));
        }
    }
    let mut done: Vec<String> = Vec::new();
    for (function, failure) in left {
        let Some(device) = function.device() else {
            continue;
        };
        let name = device.name();
        if done.iter().any(|d| d == name) {
            continue;
        }
        match scope(&device, &names(functions)) {
            Ok(scope) => {
                match device.hot_reset() {
                    Ok(()) => info!("{} had a hot reset", list(&scope)),
                    Err(e) => error!("{}: {}", with_causes(&e), as_left(&scope)),
                }
                // One hot reset serves all of these devices.
                done.extend(scope);
            }
            // `announce` has logged already that the device has no reset.
            Err(_) if failure.is_none() => {}
            Err(_) => error!(
                "{}: {}",
                failure.unwrap_or_default(),
                as_left(&[name.to_string()])
            ),
        }
    }
}

/// Resets a device alone. The error is `None` if the device has no reset, or else the text of the
/// failure.
fn alone(device: &SharedDevice) -> Result<(), Option<String>> {
    if !device.can_reset() {
        return Err(None);
    }
    match device.reset() {
        Ok(()) => {
            info!("{} was reset", device.name());
            Ok(())
        }
        Err(e) => Err(Some(with_causes(&e))),
    }
}

/// Returns the functions that a hot reset of the device would reset. If some are not `ours`,
/// returns the reason why a hot reset is not possible.
fn scope(device: &SharedDevice, ours: &[String]) -> Result<Vec<String>, String> {
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

fn as_left(names: &[String]) -> String {
    format!("the guest finds {} as it left it", list(names))
}
