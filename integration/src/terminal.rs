//! The terminal of the person who uses an emulated machine. The terminal is as before after any end
//! of the machine that this process lives to see.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{STDIN_FILENO, c_int, c_void, siginfo_t};
use vmm_sys_util::signal::register_signal_handler;

use crate::error::{Error, Result};

/// The process that ends when this process is asked to end; 0 before there is one.
static EMULATOR: AtomicI32 = AtomicI32::new(0);

/// The modes of standard input's terminal, restored when dropped; `None` without a terminal.
pub struct Terminal(Option<libc::termios>);

impl Terminal {
    /// Notes the modes.
    pub fn save() -> Self {
        let mut modes = MaybeUninit::uninit();
        // SAFETY: tcgetattr writes the structure, and initialises all of it if it returns 0.
        Self(unsafe {
            match libc::tcgetattr(STDIN_FILENO, modes.as_mut_ptr()) {
                0 => Some(modes.assume_init()),
                _ => None,
            }
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Another process may have the emulator's number by now.
        EMULATOR.store(0, Ordering::SeqCst);
        if let Some(modes) = self.0 {
            // SAFETY: tcsetattr reads the structure. A failure means that the terminal is gone.
            unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSADRAIN, ptr::from_ref(&modes)) };
        }
    }
}

/// From now on, signals that ask this process to end do not end the process: they go to an
/// emulator, whose end this process awaits.
///
/// # Errors
/// The kernel refuses a handler.
pub fn end_by_signals(emulator: u32) -> Result<()> {
    EMULATOR.store(emulator.cast_signed(), Ordering::SeqCst);
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(signal, end_emulator)
            .map_err(|error| Error::failed(format!("handle signal {signal}: {error}")))?;
    }
    Ok(())
}

extern "C" fn end_emulator(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let emulator = EMULATOR.load(Ordering::SeqCst);
    if emulator > 0 {
        // SAFETY: kill is async-signal-safe, and touches no memory.
        unsafe { libc::kill(emulator, libc::SIGTERM) };
    }
}
