//! MSI-X effects applied: VFIO's vectors, KVM's irqfds, and the eventfds that they share.
//!
//! A vector costs nothing until the guest unmasks it: then it gets an eventfd and a GSI, and stays
//! wired until MSI-X is turned off, masked or not. Where the kernel lets vectors be added one at a
//! time (Linux 6.5), that is done. On older kernels the set is turned off and on again with twice
//! as many; what the device raised in between is made up for by raising every live vector once.
//!
//! A vector that cannot be had reads as masked afterwards, which is what it is: its table entry is
//! all that a guest has to see it by.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use pci::Message;
use pci::msix::{Msix, MsixEffect};
use tracing::{debug, warn};

use crate::interrupt::irqfd::MsiLine;
use crate::interrupt::{Router, irqfd};
use crate::log::error_chain::with_causes;
use crate::log::limit::RateLimit;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::interrupts::VectorError;

/// The MSI-X vectors of one device.
pub struct MsixVectors {
    device: SharedDevice,
    router: Arc<Router>,
    lines: BTreeMap<u16, MsiLine>,
    /// Vectors that the device has.
    count: u32,
    /// Vectors can be added one at a time.
    resizable: bool,
    /// Vectors that the host has set up, from 0; meaningless where they can be added.
    host: u32,
    enabled: bool,
    limit: RateLimit,
}

impl MsixVectors {
    /// For a device that has MSI-X; `None` when VFIO does not offer it.
    pub fn new(device: SharedDevice, router: Arc<Router>) -> Option<Self> {
        let info = device.irq(Irq::Msix)?;
        Some(Self {
            device,
            router,
            lines: BTreeMap::new(),
            count: info.count,
            resizable: info.resizable,
            host: 0,
            enabled: false,
            limit: RateLimit::default(),
        })
    }

    /// Turns MSI-X on with the vectors that are live in `msix`.
    ///
    /// What fails is logged, and reads so in `msix`: a guest must not end the VM.
    pub fn enable(&mut self, msix: &mut Msix) {
        // One vector without an eventfd: the device really enters MSI-X mode, as the guest's driver
        // expects before it unmasks anything.
        match self.device.set_events(Irq::Msix, 0, &[None]) {
            Ok(()) => {
                self.enabled = true;
                self.host = 1;
                self.apply(&msix.live(), msix);
            }
            Err(e) => {
                self.complain("MSI-X stays off", &e);
                msix.refuse_enable();
            }
        }
    }

    /// Carries out what changes while MSI-X is on, with one change of the routing table for all of
    /// it. Failures as in [`MsixVectors::enable`].
    pub fn apply(&mut self, effects: &[MsixEffect], msix: &mut Msix) {
        for effect in effects {
            match effect {
                // The caller's: it knows what was on before, or is to be on next.
                MsixEffect::Enable | MsixEffect::Disable => {}
                MsixEffect::Mask { vector } => self.mask(*vector),
                MsixEffect::Update { vector, message } => {
                    if let Some(line) = self.lines.get(vector) {
                        line.route(*message);
                    }
                }
                MsixEffect::Unmask { vector, message } => {
                    if let Err(e) = self.prepare(*vector, *message) {
                        self.refuse(*vector, &e, msix);
                    }
                }
            }
        }
        let committed = self.router.commit();
        if let Err(e) = &committed {
            self.complain("its interrupts keep their old routes", e);
        }
        for effect in effects {
            let MsixEffect::Unmask { vector, .. } = effect else {
                continue;
            };
            if !self.enabled {
                break;
            }
            // Without its route it would send another's message.
            if committed.is_err() {
                msix.refuse(*vector);
            } else if let Err(e) = self.unmask(*vector) {
                self.refuse(*vector, &e, msix);
            }
        }
        if !self.enabled {
            msix.refuse_enable();
        }
    }

    fn refuse(&self, vector: u16, error: &VectorError, msix: &mut Msix) {
        self.complain("an MSI-X vector stays masked", error);
        msix.refuse(vector);
    }

    /// A read of the pending bits, inside of them. What comes for a masked vector gathers in its
    /// eventfd; a vector that never was live has none, and the device itself holds it back.
    pub fn pending_read(&self, msix: &Msix, offset: u64, data: &mut [u8]) {
        let mut held = vec![0; data.len()];
        let (bar, at) = (msix.capability().pba_bar, msix.capability().pba_offset);
        if self.enabled
            && let Err(e) = self
                .device
                .read(bar.into(), u64::from(at) + offset, &mut held)
        {
            held.fill(0);
            self.complain("its own pending bits cannot be read", &e);
        }
        msix.pba_read(offset, data, &|vector| match self.lines.get(&vector) {
            Some(line) => line.pending(),
            None => bit(&held, offset, vector),
        });
    }

    /// Turns MSI-X off and lets go of every line.
    pub fn disable(&mut self) {
        if std::mem::take(&mut self.enabled)
            && let Err(e) = self.device.disable(Irq::Msix)
        {
            self.complain("MSI-X may still be on", &e);
        }
        self.host = 0;
        self.lines.clear();
    }

    fn mask(&mut self, vector: u16) {
        let failed = self
            .lines
            .get_mut(&vector)
            .and_then(|line| line.mask().err());
        if let Some(e) = failed {
            self.complain("an MSI-X vector stays unmasked", &e);
        }
    }

    /// Makes a line for a vector that never had one, and sets its route.
    fn prepare(&mut self, vector: u16, message: Message) -> Result<(), VectorError> {
        if let Some(line) = self.lines.get(&vector) {
            line.route(message);
            return Ok(());
        }
        if u32::from(vector) >= self.count {
            return Err(VectorError::Absent {
                vector,
                count: self.count,
            });
        }
        let line = MsiLine::new(Arc::clone(&self.router))?;
        line.route(message);
        self.lines.insert(vector, line);
        Ok(())
    }

    fn unmask(&mut self, vector: u16) -> Result<(), VectorError> {
        let Some(line) = self.lines.get_mut(&vector) else {
            return Ok(());
        };
        line.unmask()?;
        let index = u32::from(vector);
        // SET_IRQS of a vector that has its eventfd already changes nothing, but costs a free_irq
        // and a request_irq in the host: it is done once, when the line is new.
        if !line.is_wired() {
            let outcome = if self.resizable || index < self.host {
                self.device
                    .set_events(Irq::Msix, index, &[Some(irqfd::borrow(line.event()))])
            } else {
                self.grow(index + 1)
            };
            if let Err(e) = outcome {
                self.lines.remove(&vector);
                return Err(e.into());
            }
            if let Some(line) = self.lines.get_mut(&vector) {
                line.set_wired();
            }
        }
        Ok(())
    }

    /// Turns the set off and on with at least `need` vectors (kernels before 6.5).
    fn grow(&mut self, need: u32) -> Result<(), DeviceError> {
        let ample = need.next_power_of_two().min(self.count).max(need);
        debug!(
            device = self.device.name(),
            from = self.host,
            to = ample,
            "MSI-X vectors"
        );
        self.device.disable(Irq::Msix)?;
        let mut outcome = self.set_first(ample);
        if matches!(outcome, Err(DeviceError::FewerVectors { .. })) && ample > need {
            outcome = self.set_first(need);
        }
        if outcome.is_err() {
            // Back to what worked before, so that the vectors in use live on.
            let before = self.host;
            match self.set_first(before) {
                Ok(()) => self.trigger_wired(),
                Err(e) => {
                    self.complain("MSI-X goes off, and cannot be turned on again", &e);
                    self.enabled = false;
                }
            }
            return outcome;
        }
        self.trigger_wired();
        Ok(())
    }

    fn set_first(&mut self, count: u32) -> Result<(), DeviceError> {
        let events: Vec<Option<BorrowedFd<'_>>> = (0..count)
            .map(|i| {
                u16::try_from(i)
                    .ok()
                    .and_then(|v| self.lines.get(&v))
                    .map(|line| irqfd::borrow(line.event()))
            })
            .collect();
        self.device.set_events(Irq::Msix, 0, &events)?;
        self.host = count;
        Ok(())
    }

    /// Raises every vector that was live: an interrupt too many is harmless, one too few is not.
    fn trigger_wired(&self) {
        self.lines
            .values()
            .filter(|line| line.is_wired())
            .for_each(MsiLine::trigger);
    }

    fn complain(&self, what: &str, error: &dyn std::error::Error) {
        if self.limit.allow() {
            warn!("{}: {what}: {}", self.device.name(), with_causes(error));
        }
    }
}

/// A vector's bit in the pending bits from byte `offset` on.
fn bit(bytes: &[u8], offset: u64, vector: u16) -> bool {
    u64::from(vector / 8)
        .checked_sub(offset)
        .and_then(|at| bytes.get(usize::try_from(at).ok()?))
        .is_some_and(|byte| byte >> (vector % 8) & 1 != 0)
}

impl Drop for MsixVectors {
    fn drop(&mut self) {
        self.disable();
    }
}
