//! What an end of the main loop means: the end of the run, or another boot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use tracing::{dispatcher, info, warn};

use crate::config::VmConfig;
use crate::exit::Exit;
use crate::guest_event::{GuestEvent, Notifier};
use crate::lifecycle::{End, Lifecycle};
use crate::machine::error::MachineError;
use crate::machine::open_devices::check_calls;
use crate::machine::opening::Opening;
use crate::machine::ram_setup::RamSetup;
use crate::sandbox::{self, Kind};
use crate::sys::notify;
use crate::vcpu::broken;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::error::VcpuError;
use crate::vfio::function::{VfioFunction, reset};
use crate::vfio::opener::Opener;

/// How often the main loop looks whether what it waits for is there, in milliseconds.
const LOOK_MS: u16 = 20;

/// Waits for the end of a boot. The service manager is told of the run once the devices are open: a
/// run whose devices cannot be opened has not started. The main loop looks from time to time,
/// because no other thread may tell the service manager.
///
/// # Errors
/// When waiting itself fails.
pub(super) fn wait_for_end(lifecycle: &mut Lifecycle, devices: &DevicesOpen) -> io::Result<End> {
    while !devices.is_open() {
        if let Some(end) = lifecycle.wait_ms(LOOK_MS)? {
            return Ok(end);
        }
    }
    if let Err(e) = notify::ready() {
        warn!("the service manager is not told that the guest runs: {e}");
    }
    lifecycle.wait()
}

/// Ends the run with `exit` once the devices are open, because the guest may have ended before one
/// is refused. The user may end that wait.
///
/// # Errors
/// Why the devices cannot be opened.
pub(super) fn end_with(
    exit: Exit,
    opening: Option<&Opening>,
    lifecycle: &mut Lifecycle,
) -> Result<Exit, MachineError> {
    let Some(opening) = opening.filter(|_| exit != Exit::Asked) else {
        return Ok(exit);
    };
    while opening.goes_on() {
        let end = lifecycle.wait_ms(LOOK_MS).map_err(MachineError::Loop)?;
        if let Some(End::Signal(_) | End::Quit) = end {
            return Ok(Exit::Asked);
        }
    }
    opening.check()?;
    Ok(exit)
}

/// Waits, between two boots, until `look` finds something. Returns `None` if the user ends the run
/// before. Events of the guest are dropped: they are those of the ended boot.
///
/// # Errors
/// When waiting itself fails.
pub(super) fn wait_between_boots<T>(
    lifecycle: &mut Lifecycle,
    look: impl Fn() -> Option<T>,
) -> Result<Option<T>, MachineError> {
    loop {
        if let Some(found) = look() {
            return Ok(Some(found));
        }
        let end = lifecycle.wait_ms(LOOK_MS).map_err(MachineError::Loop)?;
        if let Some(End::Signal(_) | End::Quit) = end {
            return Ok(None);
        }
    }
}

/// Resets devices between two boots, on a thread of its own, while the main loop goes on: a reset
/// may take a minute (PCI Express 6.0, 6.6.2). Returns whether the user has ended the run. The
/// calls are waited for only a little longer then.
///
/// # Errors
/// A call has not ended, the host has no threads left, or waiting itself fails.
pub(super) fn reset_devices(
    lifecycle: &mut Lifecycle,
    (opener, notifier): (&Opener, &Notifier),
    functions: &[Arc<VfioFunction>],
) -> Result<bool, MachineError> {
    if functions.is_empty() {
        return Ok(false);
    }
    let done = AtomicBool::new(false);
    // That of this thread, in a test.
    let log = dispatcher::get_default(Clone::clone);
    let asked = thread::scope(|scope| {
        let thread = thread::Builder::new().name("reset".into());
        let thread = thread.spawn_scoped(scope, || {
            sandbox::enter(Kind::Main);
            dispatcher::with_default(&log, || reset::devices(functions));
            done.store(true, Ordering::Release);
            notifier.wake_loop();
        });
        let thread = thread.map_err(MachineError::Descriptors)?;
        let look = || (done.load(Ordering::Acquire) || thread.is_finished()).then_some(());
        let mut asked = false;
        while wait_between_boots(lifecycle, look)?.is_none() {
            opener.give_up_soon();
            asked = true;
        }
        Ok::<_, MachineError>(asked)
    })?;
    check_calls(opener)?;
    Ok(asked)
}

/// How the run ends after `end`; `None` if the guest boots again.
pub(super) fn exit_of(
    end: End,
    config: &VmConfig,
    ram: &mut RamSetup,
) -> Result<Option<Exit>, MachineError> {
    match end {
        End::Guest(GuestEvent::PowerOff) => Ok(Some(Exit::PowerOff)),
        End::Signal(_) | End::Quit => Ok(Some(Exit::Asked)),
        End::Guest(GuestEvent::RunRefused(id, errno)) => {
            ram.check()?;
            let source = io::Error::from_raw_os_error(errno);
            Err(VcpuError::Run { id, source }.into())
        }
        End::Guest(GuestEvent::Broken(why)) => {
            ram.check()?;
            let traps = config.vfio.iter().any(|device| !device.mechanisms.mmap);
            Err(match traps && broken::is_unemulated(&why) {
                true => MachineError::Trapped(why),
                false => MachineError::Broken(why),
            })
        }
        End::Guest(GuestEvent::Reset) if config.no_reboot => Ok(Some(Exit::Reboot)),
        End::Guest(GuestEvent::TripleFault) if config.no_reboot => Ok(Some(Exit::TripleFault)),
        End::Guest(GuestEvent::Reset) => {
            info!("the guest reboots");
            Ok(None)
        }
        End::Guest(GuestEvent::TripleFault) => {
            info!("the guest's processor shut down (a triple fault): the guest boots again");
            Ok(None)
        }
    }
}
