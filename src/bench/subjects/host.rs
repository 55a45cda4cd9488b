//! A turn of the host's own driver.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::disks::{self, Disk};
use crate::error::{Error, Result};
use crate::stop::STOP;
use crate::subjects::trial::Trial;
use crate::work::task::Task;
use crate::work::trial;

/// How long the host's driver may take to show the disk after a guest had the device.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does the work of a turn after a rest. `device` is the device's directory in sysfs.
///
/// # Errors
/// The disk does not come back, or cannot be read; or the user has ended the measurement.
pub fn trial(
    task: &Task,
    device: &Path,
    kernel: &str,
    (seed, pause): (u64, Duration),
) -> Result<Trial> {
    let disk = wait_for_disk(device, task)?;
    rest(pause)?;
    let file = disk.open(task.destroy.as_deref())?;
    let mut trial = Trial {
        kernel: kernel.to_owned(),
        ..Trial::default()
    };
    let mut heard = Ok(false);
    trial::work(task, file, seed, &STOP, &mut |message| {
        heard = trial.hear(message);
    })?;
    heard.map(|_| trial)
}

/// Leaves the disk alone. While a guest starts, nobody uses the disk: it cools down, and flash
/// memory is tidied up. The host's turn begins with the same rest.
fn rest(pause: Duration) -> Result<()> {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        if STOP.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        let left = until.saturating_duration_since(Instant::now());
        thread::sleep(left.min(Duration::from_millis(20)));
    }
    Ok(())
}

/// Waits until the host's driver shows the disk.
///
/// # Errors
/// The time is over, the disk is not the one that may be written to, or the user has ended the
/// measurement.
pub fn wait_for_disk(device: &Path, task: &Task) -> Result<Disk> {
    let started = Instant::now();
    loop {
        let all = disks::all(Path::new("/sys"))?;
        let mut mine = all.iter().filter(|disk| disk.is_below(device));
        if let Some(disk) = mine.find(|disk| disk.is(&task.disk))
            && disk.node().exists()
        {
            disk.check_serial(task.destroy.as_deref())?;
            return Ok(disk.clone());
        }
        if STOP.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        if started.elapsed() > PATIENCE {
            let address = device.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::new(format!(
                "the host's driver does not show the disk of {address} any more"
            ))
            .with_hint(format!(
                "mini-vmm host list; mini-vmm host unbind {address}"
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_lasts_as_long_as_it_is_told() {
        for wanted in [Duration::ZERO, Duration::from_millis(50)] {
            let begun = Instant::now();
            rest(wanted).unwrap();
            assert!(begun.elapsed() >= wanted);
        }
    }
}
