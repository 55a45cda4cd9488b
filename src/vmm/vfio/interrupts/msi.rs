//! MSI effects applied: one to 32 messages, all of them wired before the device is told to send.
//!
//! A driver decides how many messages to ask for by what the capability says (Linux's
//! `pci_alloc_irq_vectors` never looks whether it got them), so the host is asked for all of them
//! once, before a guest sees the capability. Should there be fewer later on, the capability says that
//! too.

use std::sync::Arc;

use pci::Message;
use pci::msi::{Msi, MsiEffect};
use tracing::{info, warn};

use crate::interrupt::irqfd::MsiLine;
use crate::interrupt::{Router, irqfd};
use crate::log::error_chain::with_causes;
use crate::log::limit::RateLimit;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::interrupts::VectorError;

/// The MSI vectors of one device.
pub struct MsiVectors {
    device: SharedDevice,
    router: Arc<Router>,
    lines: Vec<MsiLine>,
    limit: RateLimit,
}

impl MsiVectors {
    /// For a device that has MSI; `None` when VFIO does not offer it.
    pub fn new(device: SharedDevice, router: Arc<Router>) -> Option<Self> {
        device.irq(Irq::Msi)?;
        Some(Self {
            device,
            router,
            lines: Vec::new(),
            limit: RateLimit::default(),
        })
    }

    /// How many vectors the host can give of the `most` that the device has, a power of two. MSI must
    /// be off, and is off again.
    pub fn available(&self, most: u8) -> u8 {
        let mut count = most;
        // A single one is tried when the guest enables it: there is no smaller number to show.
        while count > 1 {
            let none = vec![None; count.into()];
            match self.device.set_events(Irq::Msi, 0, &none) {
                Ok(()) => {
                    self.turn_off();
                    break;
                }
                Err(e) => match fewer(&e, count) {
                    Some(left) => count = left,
                    // It does not take the question; the guest's own attempt will tell.
                    None => return most,
                },
            }
        }
        if count < most {
            info!(
                "{}: the host can give {count} of its {most} MSI vectors, and the guest sees so many",
                self.device.name()
            );
        }
        count
    }

    /// Turns MSI on as `msi` says; where the host has fewer vectors to give, `msi` says so after.
    /// With none, it reads as off. A guest must not end the VM: what fails is logged.
    pub fn enable(&mut self, msi: &mut Msi) {
        loop {
            let asked = msi.vectors();
            let Err(error) = self.wire(&msi.messages(), msi.masked()) else {
                return;
            };
            self.complain(&error);
            self.lines.clear();
            let count = match &error {
                VectorError::Device(e) => fewer(e, asked),
                _ => None,
            };
            match count {
                Some(count) => msi.grant(count),
                None => return msi.refuse(),
            }
        }
    }

    /// Carries out what changes while MSI is on. Failures as in [`MsiVectors::enable`].
    pub fn apply(&mut self, effects: &[MsiEffect], msi: &mut Msi) {
        for effect in effects {
            let outcome = match effect {
                // Another number of vectors: it comes before an Enable, and both are one here.
                MsiEffect::Disable => Ok(()),
                MsiEffect::Enable { .. } => {
                    self.disable();
                    self.enable(msi);
                    Ok(())
                }
                MsiEffect::Mask { vector } => self.line(*vector, MsiLine::mask),
                MsiEffect::Unmask { vector } => self.line(*vector, MsiLine::unmask),
                MsiEffect::Update { messages } => self.route(messages),
            };
            if let Err(e) = outcome {
                self.complain(&e);
            }
        }
    }

    /// Whether an event has gathered for a vector that is masked.
    pub fn pending(&self, vector: u8) -> bool {
        self.lines
            .get(usize::from(vector))
            .is_some_and(MsiLine::pending)
    }

    fn wire(&mut self, messages: &[Message], masked: u32) -> Result<(), VectorError> {
        self.lines = messages
            .iter()
            .map(|_| MsiLine::new(Arc::clone(&self.router)))
            .collect::<Result<_, _>>()?;
        self.route(messages)?;
        for (vector, line) in self.lines.iter_mut().enumerate() {
            if masked >> vector & 1 == 0 {
                line.unmask()?;
            }
        }
        let events: Vec<_> = self
            .lines
            .iter()
            .map(|l| Some(irqfd::borrow(l.event())))
            .collect();
        Ok(self.device.set_events(Irq::Msi, 0, &events)?)
    }

    fn route(&self, messages: &[Message]) -> Result<(), VectorError> {
        for (line, message) in self.lines.iter().zip(messages) {
            line.route(*message);
        }
        Ok(self.router.commit()?)
    }

    fn line(
        &mut self,
        vector: u8,
        change: impl Fn(&mut MsiLine) -> Result<(), crate::interrupt::InterruptError>,
    ) -> Result<(), VectorError> {
        match self.lines.get_mut(usize::from(vector)) {
            Some(line) => Ok(change(line)?),
            None => Ok(()),
        }
    }

    /// Turns MSI off and lets go of every line.
    pub fn disable(&mut self) {
        if !self.lines.is_empty() {
            self.turn_off();
        }
        self.lines.clear();
    }

    fn turn_off(&self) {
        if let Err(e) = self.device.disable(Irq::Msi) {
            self.complain(&e.into());
        }
    }

    fn complain(&self, error: &VectorError) {
        if self.limit.allow() {
            warn!(
                "{}: MSI is not as the guest wants it: {}",
                self.device.name(),
                with_causes(error)
            );
        }
    }
}

/// What to ask for after an error of asking for `asked`: always less, and a power of two.
fn fewer(error: &DeviceError, asked: u8) -> Option<u8> {
    let DeviceError::FewerVectors { available, .. } = error else {
        return None;
    };
    let most = u32::from(asked).saturating_sub(1).min(*available);
    Some(1 << most.checked_ilog2()?)
}

impl Drop for MsiVectors {
    fn drop(&mut self) {
        self.disable();
    }
}
