//! Ctrl-C and SIGTERM end a measurement in order: the device goes back first.

use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::register_signal_handler;

use crate::error::{Context, Result};

/// Whether the user has ended the measurement.
pub static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    STOP.store(true, Ordering::Relaxed);
}

/// Lets the signals that end a program set [`STOP`].
///
/// # Errors
/// The kernel refuses a handler.
pub fn listen() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let set = register_signal_handler(signal, stop);
        set.map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
            .context("cannot listen to signals")?;
    }
    Ok(())
}
