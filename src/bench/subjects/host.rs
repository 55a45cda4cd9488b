//! A turn of the host's own driver.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::disks::{self, Disk};
use crate::error::{Error, Result};
use crate::network::lent::Lent;
use crate::network::macvtap::Macvtap;
use crate::network::port::{self, Port};
use crate::stop::STOP;
use crate::subjects::trial::{Trial, Works};
use crate::work::task::{PortId, Target, Task};
use crate::work::trial::{self, Opened};

/// How long the host's driver may take to show the disk after a guest had the device.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does the work of a turn after a rest. `device` is the device's directory in sysfs.
///
/// # Errors
/// The device does not come back, or cannot be used; or the user has ended the measurement.
pub fn trial(
    task: &Task,
    device: &Path,
    kernel: &str,
    (seed, pause): (u64, Duration),
) -> Result<Trial> {
    wait(device, task)?;
    rest(pause)?;
    let work = |opened| {
        let mut trial = Trial {
            kernel: kernel.to_owned(),
            ..Trial::default()
        };
        let (mut heard, mut works) = (Ok(false), Works);
        trial::work(task, opened, seed, &STOP, &mut |message| {
            works.hear(&message);
            heard = trial.hear(message);
        })?;
        heard.map(|_| trial)
    };
    match &task.target {
        Target::Function => Ok(Trial {
            kernel: kernel.to_owned(),
            ..Trial::default()
        }),
        Target::Disk(_) => {
            let disk = wait_for_disk(device, task)?;
            work(Opened::Disk(disk.open(task.destroy.as_deref())?))
        }
        Target::Port(id) => {
            let lent = lend(device, id)?;
            let trial = lent.run(|| work(Opened::Peer(id.peer)))?;
            lent.give_back()?;
            trial
        }
    }
}

/// Lends the port to a network of its own, where it has its address and a carrier.
///
/// # Errors
/// The port does not come back, or has no carrier; or the user has ended the measurement.
pub fn lend(device: &Path, id: &PortId) -> Result<Lent> {
    let lent = Lent::new(&wait_for_port(device)?.name, Some((id.address, id.prefix)))?;
    lent.wait_for_carrier(PATIENCE)?;
    Ok(lent)
}

/// Lends the port to a network of its own, and makes a macvtap of it there, which has a carrier.
///
/// # Errors
/// As for [`lend`], or the kernel has no macvtap.
pub fn lend_as_macvtap(device: &Path) -> Result<Macvtap> {
    Macvtap::new(&wait_for_port(device)?.name, PATIENCE)
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

/// Waits until the host's driver shows the disk or the port.
///
/// # Errors
/// As for [`wait_for_disk`].
pub fn wait(device: &Path, task: &Task) -> Result<()> {
    match &task.target {
        Target::Disk(_) => wait_for_disk(device, task).map(drop),
        Target::Port(_) => wait_for_port(device).map(drop),
        Target::Function => wait_for_driver(device, task.function.driver),
    }
}

/// Waits until the host's driver shows the disk.
///
/// # Errors
/// The time is over, the disk is not the one that may be written to, or the user has ended the
/// measurement.
pub fn wait_for_disk(device: &Path, task: &Task) -> Result<Disk> {
    let Target::Disk(id) = &task.target else {
        return Err(Error::new("the device is no disk"));
    };
    let disk = wait_for(device, "disk", &mut || {
        let all = disks::all(Path::new("/sys"))?;
        let mut mine = all.into_iter().filter(|disk| disk.is_below(device));
        Ok(mine.find(|disk| disk.is(id) && disk.node().exists()))
    })?;
    disk.check_serial(task.destroy.as_deref())?;
    Ok(disk)
}

fn wait_for_port(device: &Path) -> Result<Port> {
    wait_for(device, "network port", &mut || {
        Ok(port::all(Path::new("/sys"), Some(device))?
            .into_iter()
            .next())
    })
}

/// Waits until the host has the function as it was before.
fn wait_for_driver(device: &Path, has_driver: bool) -> Result<()> {
    wait_for(device, "driver", &mut || {
        let driver = fs::read_link(device.join("driver")).ok();
        let driver = driver.as_ref().and_then(|path| path.file_name());
        let is_back = match driver {
            Some(name) => has_driver && name != "vfio-pci",
            None => !has_driver,
        };
        Ok(is_back.then_some(()))
    })
}

fn wait_for<T>(
    device: &Path,
    what: &str,
    find: &mut dyn FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = find()? {
            return Ok(found);
        }
        if STOP.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        if started.elapsed() > PATIENCE {
            let address = device.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::new(format!(
                "the host's driver does not show the {what} of {address} any more"
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
    fn a_function_is_back_with_the_driver_that_it_had() {
        let device = std::env::temp_dir().join(format!("bench-back-{}", std::process::id()));
        fs::create_dir_all(&device).unwrap();
        wait_for_driver(&device, false).unwrap();
        std::os::unix::fs::symlink("/drivers/xhci_hcd", device.join("driver")).unwrap();
        wait_for_driver(&device, true).unwrap();
        fs::remove_dir_all(&device).unwrap();
    }

    #[test]
    fn a_rest_lasts_as_long_as_it_is_told() {
        for wanted in [Duration::ZERO, Duration::from_millis(50)] {
            let begun = Instant::now();
            rest(wanted).unwrap();
            assert!(begun.elapsed() >= wanted);
        }
    }
}
