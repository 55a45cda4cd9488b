//! MSI-X on the host's side: VFIO's vectors, KVM's irqfds, and the eventfds that both share.
//!
//! A vector costs nothing until the guest unmasks it: then the vector gets an eventfd and a GSI,
//! and keeps both until MSI-X is turned off, even while it is masked. Since Linux 6.5 vectors are
//! added one at a time. On older kernels all vectors are turned off, and twice as many are turned
//! on. Then every vector of the guest is triggered once, because the device may have lost
//! interrupts in between.
//!
//! A vector that the host refuses reads as masked afterwards: a guest sees nothing of a vector but
//! its table entry.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use pci::Message;
use pci::msix::Msix;
use tracing::debug;

use crate::gsi::delivery::Delivery;
use crate::gsi::msi_irqfd::MsiIrqfd;
use crate::sys::eventfd;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::interrupts::error::VectorError;
use crate::vfio::interrupts::refused::tell_refused;

/// The MSI-X vectors of one device.
pub struct MsixVectors {
    device: SharedDevice,
    delivery: Delivery,
    /// The vectors that have been live since MSI-X was turned on.
    vectors: BTreeMap<u16, Vector>,
    /// Vectors that the device has.
    count: u32,
    /// Whether vectors can be added one at a time.
    resizable: bool,
    /// How many vectors, from 0, VFIO has set up, if vectors cannot be added one at a time.
    host_count: u32,
    /// Whether VFIO has turned MSI-X on.
    enabled: bool,
}

struct Vector {
    irqfd: MsiIrqfd,
    /// Whether VFIO has the eventfd.
    vfio_signals: bool,
}

impl MsixVectors {
    /// Takes a device's MSI-X vectors, which are off; `None` if VFIO offers no MSI-X.
    pub fn new(device: SharedDevice, delivery: Delivery) -> Option<Self> {
        let info = device.irq(Irq::Msix)?;
        Some(Self {
            device,
            delivery,
            vectors: BTreeMap::new(),
            count: info.count,
            resizable: info.resizable,
            host_count: 0,
            enabled: false,
        })
    }

    /// Turns MSI-X on, with the vectors that are live in `msix`. If the host refuses, the registers
    /// in `msix` show that afterwards. A guest must not end the VM, so a failure is only logged.
    pub fn enable(&mut self, msix: &mut Msix) {
        // One vector without an eventfd: the device enters MSI-X mode, as the guest's driver
        // expects before it unmasks a vector.
        match self.device.set_events(Irq::Msix, 0, &[None]) {
            Ok(()) => {
                self.enabled = true;
                self.host_count = 1;
                self.follow(msix, 0..msix.capability().vectors);
            }
            Err(e) => {
                self.warn("MSI-X stays off", &e);
                msix.refuse_enable();
            }
        }
    }

    /// Brings the vectors `written` to the state of their registers, which the guest has written,
    /// with at most one change of the routing table. MSI-X must be on. Failures are treated as in
    /// [`MsixVectors::enable`].
    pub fn follow(&mut self, msix: &mut Msix, written: Range<u16>) {
        for vector in written.clone() {
            match msix.live(vector) {
                None => self.mask(vector),
                Some(message) => {
                    if let Err(e) = self.route(vector, message) {
                        self.refuse(vector, &e, msix);
                    }
                }
            }
        }
        let committed = self.delivery.routing.commit();
        if let Err(e) = &committed {
            self.warn("its interrupts keep their old routes", e);
        }
        for vector in written {
            if !self.enabled {
                break;
            }
            if msix.live(vector).is_none() || self.is_unmasked(vector) {
                continue;
            }
            // Without the new route the GSI would send an old message, which may belong to another
            // interrupt.
            if committed.is_err() {
                msix.refuse_vector(vector);
            } else if let Err(e) = self.unmask(vector) {
                self.refuse(vector, &e, msix);
            }
        }
        if !self.enabled {
            msix.refuse_enable();
        }
    }

    fn refuse(&self, vector: u16, error: &VectorError, msix: &mut Msix) {
        self.warn("an MSI-X vector stays masked", error);
        msix.refuse_vector(vector);
    }

    /// Answers a read that lies inside the pending bits. The interrupts of a masked vector gather
    /// in its eventfd. A vector that never was live has no eventfd, and the device's own bit is
    /// read.
    pub fn pending_read(&self, msix: &Msix, offset: u64, data: &mut [u8]) {
        let mut held = vec![0; data.len()];
        let (bar, at) = (msix.capability().pba_bar, msix.capability().pba_offset);
        if self.enabled
            && let Err(e) = self
                .device
                .read(bar.into(), u64::from(at) + offset, &mut held)
        {
            held.fill(0);
            self.warn("the device's pending bits cannot be read", &e);
        }
        msix.pba_read(offset, data, &|vector| match self.vectors.get(&vector) {
            Some(vector) => vector.irqfd.pending(),
            None => bit(&held, offset, vector),
        });
    }

    /// The irqfd of a vector that has been live.
    pub fn irqfd(&self, vector: u16) -> Option<&MsiIrqfd> {
        self.vectors.get(&vector).map(|vector| &vector.irqfd)
    }

    /// Turns MSI-X off and gives all GSIs back.
    pub fn disable(&mut self) {
        if std::mem::take(&mut self.enabled)
            && let Err(e) = self.device.disable(Irq::Msix)
        {
            self.warn("MSI-X may still be on", &e);
        }
        self.host_count = 0;
        self.vectors.clear();
    }

    fn mask(&mut self, vector: u16) {
        let vector = self.vectors.get_mut(&vector);
        if let Some(Err(e)) = vector.map(|vector| vector.irqfd.mask()) {
            self.warn("an MSI-X vector stays unmasked", &e);
        }
    }

    fn is_unmasked(&self, vector: u16) -> bool {
        let vector = self.vectors.get(&vector);
        vector.is_some_and(|vector| vector.irqfd.is_unmasked())
    }

    /// Sets the route of a vector. A new vector gets an eventfd and a GSI first.
    fn route(&mut self, vector: u16, message: Message) -> Result<(), VectorError> {
        if let Some(vector) = self.vectors.get_mut(&vector) {
            return Ok(vector.irqfd.route(message)?);
        }
        if u32::from(vector) >= self.count {
            return Err(VectorError::Absent {
                vector,
                count: self.count,
            });
        }
        let mut irqfd = MsiIrqfd::new(self.delivery.clone())?;
        irqfd.route(message)?;
        let new = Vector {
            irqfd,
            vfio_signals: false,
        };
        self.vectors.insert(vector, new);
        Ok(())
    }

    fn unmask(&mut self, vector: u16) -> Result<(), VectorError> {
        let Some(Vector {
            irqfd,
            vfio_signals,
        }) = self.vectors.get_mut(&vector)
        else {
            return Ok(());
        };
        irqfd.unmask()?;
        // Setting the same eventfd again would change nothing, but cost a free_irq and a
        // request_irq in the host.
        if *vfio_signals {
            return Ok(());
        }
        let index = u32::from(vector);
        let outcome = if self.resizable || index < self.host_count {
            let event = Some(eventfd::borrow(irqfd.event()));
            self.device.set_events(Irq::Msix, index, &[event])
        } else {
            self.grow(index + 1)
        };
        if let Err(e) = outcome {
            self.vectors.remove(&vector);
            return Err(e.into());
        }
        if let Some(vector) = self.vectors.get_mut(&vector) {
            vector.vfio_signals = true;
        }
        Ok(())
    }

    /// Turns all vectors off, and at least `need` vectors on (kernels before 6.5).
    fn grow(&mut self, need: u32) -> Result<(), DeviceError> {
        let ample = need.next_power_of_two().min(self.count).max(need);
        debug!(
            device = self.device.name(),
            from = self.host_count,
            to = ample,
            "MSI-X vectors"
        );
        self.device.disable(Irq::Msix)?;
        let mut outcome = self.set_first(ample);
        if matches!(outcome, Err(DeviceError::FewerVectors { .. })) && ample > need {
            outcome = self.set_first(need);
        }
        if outcome.is_err() {
            // Goes back to the number that worked before, so that the vectors in use keep working.
            let before = self.host_count;
            match self.set_first(before) {
                Ok(()) => self.trigger_all(),
                Err(e) => {
                    self.warn("MSI-X is off, and cannot be turned on again", &e);
                    self.enabled = false;
                }
            }
            return outcome;
        }
        self.trigger_all();
        Ok(())
    }

    fn set_first(&mut self, count: u32) -> Result<(), DeviceError> {
        let events: Vec<Option<BorrowedFd<'_>>> = (0..count)
            .map(|i| {
                u16::try_from(i)
                    .ok()
                    .and_then(|v| self.vectors.get(&v))
                    .map(|vector| eventfd::borrow(vector.irqfd.event()))
            })
            .collect();
        self.device.set_events(Irq::Msix, 0, &events)?;
        self.host_count = count;
        Ok(())
    }

    /// Triggers every vector that VFIO signals: a spurious interrupt is harmless, a lost interrupt
    /// is not.
    fn trigger_all(&self) {
        let vectors = self.vectors.values();
        for vector in vectors.filter(|vector| vector.vfio_signals) {
            vector.irqfd.trigger();
        }
    }

    fn warn(&self, what: &str, error: &dyn std::error::Error) {
        tell_refused(self.device.name(), what, error);
    }
}

/// A vector's bit in `bytes`, which are the pending bits from byte `offset` on.
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
