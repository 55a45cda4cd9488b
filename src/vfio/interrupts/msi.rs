//! MSI effects applied: one to 32 messages, all of them wired before the device is told to send.

use std::sync::Arc;

use tracing::warn;

use super::VectorError;
use crate::interrupt::Router;
use crate::interrupt::irqfd::{self, MsiLine};
use crate::observe::limit::RateLimit;
use crate::observe::report::sentence;
use crate::pci::Message;
use crate::pci::msi::MsiEffect;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};

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

    /// Carries effects out, in order. What fails is logged: a guest must not end the VM.
    pub fn apply(&mut self, effects: &[MsiEffect]) {
        for effect in effects {
            let outcome = match effect {
                MsiEffect::Enable { messages, masked } => self.enable(messages, *masked),
                MsiEffect::Disable => {
                    self.disable();
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

    fn enable(&mut self, messages: &[Message], masked: u32) -> Result<(), VectorError> {
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
        match self.set_events() {
            // The host has not so many: those that there are work, and the log says so.
            Err(DeviceError::FewerVectors {
                available,
                asked,
                device,
            }) if available > 0 => {
                if self.limit.allow() {
                    warn!("{device}: the host gives {available} MSI vectors, not {asked}");
                }
                self.lines.truncate(available as usize);
                Ok(self.set_events()?)
            }
            outcome => Ok(outcome?),
        }
    }

    fn set_events(&self) -> Result<(), DeviceError> {
        let events: Vec<_> = self
            .lines
            .iter()
            .map(|l| Some(irqfd::borrow(l.event())))
            .collect();
        self.device.set_events(Irq::Msi, 0, &events)
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
        if !self.lines.is_empty()
            && let Err(e) = self.device.disable(Irq::Msi)
        {
            self.complain(&e.into());
        }
        self.lines.clear();
    }

    fn complain(&self, error: &VectorError) {
        if self.limit.allow() {
            warn!(
                "{}: MSI is not as the guest wants it: {}",
                self.device.name(),
                sentence(error)
            );
        }
    }
}

impl Drop for MsiVectors {
    fn drop(&mut self) {
        self.disable();
    }
}
