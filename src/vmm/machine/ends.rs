//! What an end of the main loop means: the end of the run, or another boot.

use std::io;

use tracing::info;

use crate::config::VmConfig;
use crate::exit::Exit;
use crate::guest_event::GuestEvent;
use crate::lifecycle::End;
use crate::machine::error::MachineError;
use crate::machine::ram_setup::RamSetup;
use crate::vcpu::broken;
use crate::vcpu::error::VcpuError;

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
