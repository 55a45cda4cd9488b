//! What an end of the main loop means: the end of the run, or another boot.

use std::io;

use tracing::{info, warn};

use crate::config::VmConfig;
use crate::exit::Exit;
use crate::guest_event::GuestEvent;
use crate::lifecycle::{End, Lifecycle};
use crate::machine::error::MachineError;
use crate::machine::opening::Opening;
use crate::machine::ram_setup::RamSetup;
use crate::sys::notify;
use crate::vcpu::broken;
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::error::VcpuError;

/// How often the main loop looks whether the devices are open, in milliseconds.
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
