//! The power button: a press is a pulse on a GSI of its own, which leads the guest's ACPI to the
//! button (the table is made by `boot::power_button`).
//!
//! The interrupt is an edge, as that of the Generic Event Devices of QEMU and Cloud Hypervisor. A
//! level lasts until somebody lowers it, which takes a register, and an exit for it. A level also
//! waits for a driver: a press while a guest boots ends the guest as soon as it is up. KVM drops an
//! edge while its pin is masked, so such a press has no effect.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::gsi::error::GsiError;
use crate::gsi::routing::GsiRouting;
use crate::layout::GSI_POWER_BUTTON;
use crate::sys::eventfd;

/// The button.
pub struct PowerButton {
    /// The irqfd of the GSI.
    interrupt: EventFd,
}

impl PowerButton {
    /// Makes the button of a VM.
    ///
    /// # Errors
    /// The host has no descriptors left, or KVM refuses the irqfd.
    pub fn new(routing: &GsiRouting) -> Result<Self, GsiError> {
        let interrupt = eventfd::new().map_err(GsiError::EventFd)?;
        routing.assign_irqfd(&interrupt, GSI_POWER_BUTTON)?;
        Ok(Self { interrupt })
    }

    /// Presses the button once. Any thread may call this.
    ///
    /// The guest decides what happens: most guests shut down. A guest that does not listen, such as
    /// one with `acpi=off`, does nothing. This process cannot know which guest it has, because KVM
    /// does not tell whether the pulse has reached a processor.
    ///
    /// # Errors
    /// The errno of write(2).
    pub fn press(&self) -> io::Result<()> {
        self.interrupt.write(1)
    }
}
