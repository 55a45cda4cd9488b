//! A reset of a PCI function by the kernel (Documentation/ABI/testing/sysfs-bus-pci, `reset`), with
//! its time. No driver should have the function meanwhile.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The kernel waits for a function for up to a minute (drivers/pci/pci.c,
/// `PCIE_RESET_READY_POLL_MS`).
const LIMIT: Duration = Duration::from_secs(90);

/// Why a function has no time of a reset.
pub const NONE: &str = "the kernel knows no reset of this function alone";

/// Resets the function with this directory in sysfs. Returns the time, or why there is none. The
/// kernel may wait for the device for ever, so a thread waits for the kernel.
///
/// # Errors
/// The reset does not end, or `stop` was set.
pub fn time(device: &Path, stop: &AtomicBool) -> Result<std::result::Result<Duration, String>> {
    // The kernel shows the file only if it has a way to reset the function.
    if !device.join("reset").exists() {
        return Ok(Err(NONE.into()));
    }
    let (sender, ended) = channel();
    let path = device.to_owned();
    thread::spawn(move || {
        // Nobody listens any more if the time is over.
        let _ = sender.send(without_sleep(&path, || {
            let started = Instant::now();
            fs::write(path.join("reset"), "1")?;
            Ok(started.elapsed())
        }));
    });
    let started = Instant::now();
    loop {
        match ended.recv_timeout(Duration::from_millis(50)) {
            Ok(time) => return Ok(time.map_err(|e| format!("the kernel's reset has failed: {e}"))),
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err("the reset was not made".into()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        if started.elapsed() > LIMIT {
            return Err(Error::new(format!(
                "the reset of {} has not ended in {} s",
                device.display(),
                LIMIT.as_secs()
            )));
        }
    }
}

/// Does `work` while the function may not sleep: one that sleeps would be woken first, as a part of
/// the reset. A kernel without power management (CONFIG_PM) lets none sleep.
fn without_sleep<T>(device: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let control = device.join("power/control");
    let before = match fs::read_to_string(&control) {
        Ok(before) => before,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return work(),
        Err(e) => return Err(e),
    };
    fs::write(&control, "on")?;
    let outcome = work();
    // The host's choice comes back after an error, too.
    fs::write(&control, before.trim_end())?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_a_write_that_is_timed() {
        let dir = std::env::temp_dir().join(format!("bench-reset-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let never = AtomicBool::new(false);
        assert_eq!(time(&dir, &never).unwrap(), Err(NONE.into()));
        fs::write(dir.join("reset"), "").unwrap();
        // Without power management, and with it.
        assert!(time(&dir, &never).unwrap().is_ok());
        fs::create_dir_all(dir.join("power")).unwrap();
        fs::write(dir.join("power/control"), "auto\n").unwrap();
        assert!(time(&dir, &never).unwrap().is_ok());
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let written = (read("power/control"), read("reset"));
        // A directory cannot be written to.
        fs::remove_file(dir.join("reset")).unwrap();
        fs::create_dir(dir.join("reset")).unwrap();
        let failed = time(&dir, &never).unwrap();
        let after_failure = read("power/control");
        let meanwhile =
            without_sleep(&dir, || fs::read_to_string(dir.join("power/control"))).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(written, ("auto".into(), "1".into()));
        assert_eq!((after_failure, meanwhile), ("auto".into(), "on".into()));
        assert!(failed.is_err_and(|why| why.contains("has failed")));
    }
}
