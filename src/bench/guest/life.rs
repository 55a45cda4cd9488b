//! The guest that measures its device's life: the driver leaves the function, the function is
//! reset, the driver comes back, and the guest reboots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use rustix::system::{RebootCommand, reboot};

use crate::error::{Context, Error, Result};
use crate::work::reset;
use crate::work::task::{FunctionId, Message};

/// Waits for the function, and for its driver if the host has one.
pub(super) fn wait(id: &FunctionId, patience: Duration) -> Result<PathBuf> {
    let started = Instant::now();
    loop {
        let found = find(Path::new("/sys/bus/pci/devices"), id)?;
        if let Some(path) = &found
            && (!id.driver || path.join("driver").exists())
        {
            return Ok(path.clone());
        }
        if started.elapsed() > patience {
            return Err(Error::new(match found {
                None => "the guest's kernel has not found the device",
                Some(_) => "no driver of the guest's kernel has bound the device",
            }));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The directory of the function, which has another address here than in the host.
fn find(devices: &Path, id: &FunctionId) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(devices).context("the guest cannot read its devices")?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let modalias = fs::read_to_string(path.join("modalias"));
        modalias.is_ok_and(|text| text.trim() == id.modalias)
    };
    Ok(paths.find(is_it))
}

/// Resets the function if the guest has the host's, and reboots the guest. Returns only if that
/// fails.
pub(super) fn end(
    id: &FunctionId,
    is_assigned: bool,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Message),
) -> Result<()> {
    if is_assigned {
        let device = find(Path::new("/sys/bus/pci/devices"), id)?;
        let device = device.ok_or_else(|| Error::new("the guest's device has gone"))?;
        tell(&by_sysfs(&device, stop)?);
    }
    tell(&Message::Reboot);
    // The message is out before the call.
    rustix::termios::tcdrain(io::stdout()).context("the guest's console takes no message")?;
    reboot(RebootCommand::Restart).context("the guest cannot reboot")
}

fn by_sysfs(device: &Path, stop: &AtomicBool) -> Result<Message> {
    let driver = fs::canonicalize(device.join("driver")).ok();
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    if let Some(driver) = &driver {
        let left = fs::write(driver.join("unbind"), name.as_bytes());
        left.context("the guest's driver does not leave the device")?;
    }
    let time = reset::time(device, stop)?;
    if let Some(driver) = &driver {
        let back = fs::write(driver.join("bind"), name.as_bytes());
        back.context("the guest's driver does not take the device again after the reset")?;
    }
    Ok(match time {
        Ok(time) => Message::Reset {
            us: Some(time.as_secs_f64() * 1e6),
            why: None,
        },
        Err(why) => Message::Reset {
            us: None,
            why: Some(why),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_by_what_modules_know_it_by() {
        let dir = std::env::temp_dir().join(format!("bench-life-{}", std::process::id()));
        for (name, modalias) in [("0000:00:00.0", "pci:a\n"), ("0000:01:00.0", "pci:b\n")] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("modalias"), modalias).unwrap();
        }
        let found = |modalias: &str| {
            let id = FunctionId {
                modalias: modalias.into(),
                driver: false,
            };
            find(&dir, &id).unwrap()
        };
        let (second, none) = (found("pci:b"), found("pci:c"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(second, Some(dir.join("0000:01:00.0")));
        assert_eq!(none, None);
    }
}
