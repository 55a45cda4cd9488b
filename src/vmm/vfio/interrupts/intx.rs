//! INTx: a level-triggered interrupt, which stays asserted until the guest acknowledges it.
//!
//! VFIO masks the pin when the device asserts it and signals the trigger eventfd, and KVM raises
//! the GSI. When the guest acknowledges the interrupt (EOI), KVM lowers the GSI and signals the
//! resample eventfd, by which VFIO unmasks the pin: if the device still asserts its pin, VFIO
//! signals again. All of this happens in the kernel (Documentation/virt/kvm/api.rst, 4.75
//! KVM_IRQFD_FLAG_RESAMPLE). If a device's VFIO driver does not take the resample eventfd, the
//! event thread unmasks the pin.

use std::sync::{Arc, Weak};

use tracing::debug;
use vmm_sys_util::eventfd::EventFd;

use crate::event_thread::EventThread;
use crate::gsi::error::GsiError;
use crate::gsi::routing::GsiRouting;
use crate::log::error_chain::with_causes;
use crate::log::limit::{RateLimit, warn_limited};
use crate::sys::eventfd;
use crate::vfio::device::{Irq, SharedDevice};
use crate::vfio::interrupts::error::VectorError;

/// The interrupt pin of one device.
pub struct Intx {
    device: SharedDevice,
    routing: Arc<GsiRouting>,
    event_thread: Weak<EventThread>,
    gsi: u32,
    /// `None` while INTx is off.
    events: Option<Events>,
    limit: RateLimit,
}

struct Events {
    /// From VFIO to KVM: the device has asserted its pin, and VFIO has masked it.
    trigger: EventFd,
    /// From KVM to VFIO: the guest has acknowledged the interrupt.
    resample: EventFd,
    /// The event thread's watch of `resample`, if VFIO does not take the eventfd.
    watch: Option<u64>,
}

impl Intx {
    /// The pin of a device, to raise `gsi`; `None` when VFIO does not offer a pin.
    pub fn new(
        device: SharedDevice,
        routing: Arc<GsiRouting>,
        event_thread: Weak<EventThread>,
        gsi: u32,
    ) -> Option<Self> {
        device.irq(Irq::Intx)?;
        Some(Self {
            device,
            routing,
            event_thread,
            gsi,
            events: None,
            limit: RateLimit::default(),
        })
    }

    /// Turns INTx on. MSI and MSI-X must be off. A failure is logged.
    pub fn enable(&mut self) {
        if self.events.is_some() {
            return;
        }
        if let Err(e) = self.connect() {
            let device = self.device.name();
            warn_limited!(
                self.limit,
                "{device}: no interrupts by INTx: {}",
                with_causes(&e)
            );
        }
    }

    /// The pin is masked first and unmasked last: an interrupt in between would leave the pin
    /// masked for good.
    fn connect(&mut self) -> Result<(), VectorError> {
        let trigger = eventfd::new().map_err(GsiError::EventFd)?;
        let resample = eventfd::new().map_err(GsiError::EventFd)?;
        let event = Some(eventfd::borrow(&trigger));
        self.device.set_events(Irq::Intx, 0, &[event])?;
        let outcome = self
            .device
            .mask(Irq::Intx)
            .map_err(VectorError::from)
            .and_then(|()| {
                let gsi = self.gsi;
                Ok(self.routing.assign_level_irqfd(&trigger, &resample, gsi)?)
            });
        if let Err(e) = outcome {
            self.disable_in_vfio();
            return Err(e);
        }
        let watch = match self.device.set_unmask_event(eventfd::borrow(&resample)) {
            Ok(()) => None,
            Err(e) => {
                let device = self.device.name();
                debug!(
                    "{device}: the event thread unmasks INTx: {}",
                    with_causes(&e)
                );
                self.watch(&resample)
            }
        };
        self.events = Some(Events {
            trigger,
            resample,
            watch,
        });
        Ok(self.device.unmask(Irq::Intx)?)
    }

    /// Lets the event thread unmask the pin whenever `resample` is signalled.
    fn watch(&self, resample: &EventFd) -> Option<u64> {
        let thread = self.event_thread.upgrade()?;
        let device = Arc::clone(&self.device);
        let unmask = move || {
            if let Err(e) = device.unmask(Irq::Intx) {
                debug!("{}", with_causes(&e));
            }
        };
        match thread.watch(resample, unmask) {
            Ok(key) => Some(key),
            Err(e) => {
                let device = self.device.name();
                warn_limited!(
                    self.limit,
                    "{device}: INTx stays masked after its first interrupt: {e}"
                );
                None
            }
        }
    }

    /// Turns INTx off; KVM lowers the GSI.
    pub fn disable(&mut self) {
        let Some(events) = self.events.take() else {
            return;
        };
        if let (Some(key), Some(thread)) = (events.watch, self.event_thread.upgrade()) {
            thread.unwatch(key);
        }
        if let Err(e) = self.routing.deassign_irqfd(&events.trigger, self.gsi) {
            let device = self.device.name();
            warn_limited!(self.limit, "{device}: KVM keeps INTx: {}", with_causes(&e));
        }
        self.disable_in_vfio();
        // VFIO has used this eventfd until now.
        drop(events.resample);
    }

    /// Whether INTx is on.
    pub fn is_enabled(&self) -> bool {
        self.events.is_some()
    }

    fn disable_in_vfio(&self) {
        if let Err(e) = self.device.disable(Irq::Intx) {
            let device = self.device.name();
            warn_limited!(self.limit, "{device}: INTx stays on: {}", with_causes(&e));
        }
    }
}

impl Drop for Intx {
    fn drop(&mut self) {
        self.disable();
    }
}
