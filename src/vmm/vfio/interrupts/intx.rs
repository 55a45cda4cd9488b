//! INTx: a level that stays up until the device is served.
//!
//! VFIO masks the pin when it fires and signals an eventfd; KVM raises the GSI, and when the guest
//! acknowledges it (EOI) lowers it and signals a second eventfd, which VFIO takes as "unmask": if the
//! device still asks, the pin fires again. All of it is in the kernel
//! (Documentation/virt/kvm/api.rst, 4.75 KVM_IRQFD_FLAG_RESAMPLE). A device whose VFIO driver does
//! not take the second eventfd is unmasked by the event thread instead.

use std::sync::{Arc, Weak};

use tracing::{debug, warn};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::event_thread::EventThread;
use crate::interrupt::{InterruptError, Router, irqfd};
use crate::log::error_chain::with_causes;
use crate::log::limit::RateLimit;
use crate::vfio::device::{Irq, SharedDevice};
use crate::vfio::interrupts::VectorError;

/// The interrupt pin of one device.
pub struct Intx {
    device: SharedDevice,
    router: Arc<Router>,
    service: Weak<EventThread>,
    gsi: u32,
    wired: Option<Wired>,
    limit: RateLimit,
}

struct Wired {
    /// VFIO to KVM: the pin has fired.
    fired: EventFd,
    /// KVM to VFIO: the guest has served it.
    served: EventFd,
    /// The watch of the event thread, where VFIO does not listen to `served`.
    watch: Option<u64>,
}

impl Intx {
    /// For a device that has a pin, wired to `gsi`; `None` when VFIO does not offer it.
    pub fn new(
        device: SharedDevice,
        router: Arc<Router>,
        service: Weak<EventThread>,
        gsi: u32,
    ) -> Option<Self> {
        device.irq(Irq::Intx)?;
        Some(Self {
            device,
            router,
            service,
            gsi,
            wired: None,
            limit: RateLimit::default(),
        })
    }

    /// Wires the pin. MSI and MSI-X must be off.
    pub fn enable(&mut self) {
        if self.wired.is_none()
            && let Err(e) = self.wire()
        {
            self.complain("no interrupts by its pin", &e);
        }
    }

    /// The pin is masked while it is being wired, and unmasked last: what fires in between would
    /// find no way to be served.
    fn wire(&mut self) -> Result<(), VectorError> {
        let event = || EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let fired = event().map_err(InterruptError::EventFd)?;
        let served = event().map_err(InterruptError::EventFd)?;
        self.device
            .set_events(Irq::Intx, 0, &[Some(irqfd::borrow(&fired))])?;
        let outcome = self
            .device
            .mask(Irq::Intx)
            .map_err(VectorError::from)
            .and_then(|()| Ok(self.router.attach_level(&fired, &served, self.gsi)?));
        if let Err(e) = outcome {
            self.turn_off();
            return Err(e);
        }
        let watch = match self.device.set_unmask_event(irqfd::borrow(&served)) {
            Ok(()) => None,
            Err(e) => {
                debug!(
                    "{}: its pin is unmasked from here: {}",
                    self.device.name(),
                    with_causes(&e)
                );
                self.watch(&served)
            }
        };
        self.wired = Some(Wired {
            fired,
            served,
            watch,
        });
        Ok(self.device.unmask(Irq::Intx)?)
    }

    fn watch(&self, served: &EventFd) -> Option<u64> {
        let device = Arc::clone(&self.device);
        let unmask = move || {
            if let Err(e) = device.unmask(Irq::Intx) {
                debug!("{}", with_causes(&e));
            }
        };
        let watch = self
            .service
            .upgrade()
            .map(|service| service.watch(served, unmask));
        match watch? {
            Ok(key) => Some(key),
            Err(e) => {
                self.complain("its pin stays masked after it has fired", &e);
                None
            }
        }
    }

    /// Unwires the pin; KVM lowers its GSI.
    pub fn disable(&mut self) {
        let Some(wired) = self.wired.take() else {
            return;
        };
        if let (Some(key), Some(service)) = (wired.watch, self.service.upgrade()) {
            service.unwatch(key);
        }
        if let Err(e) = self.router.detach(&wired.fired, self.gsi) {
            self.complain("its pin stays wired", &e);
        }
        self.turn_off();
        drop(wired.served);
    }

    /// Whether the guest has interrupts by the pin.
    pub fn is_wired(&self) -> bool {
        self.wired.is_some()
    }

    /// A guest decides how often this happens.
    fn complain(&self, what: &str, error: &dyn std::error::Error) {
        if self.limit.allow() {
            warn!("{}: {what}: {}", self.device.name(), with_causes(error));
        }
    }

    fn turn_off(&self) {
        if let Err(e) = self.device.disable(Irq::Intx) {
            self.complain("its pin stays on", &e);
        }
    }
}

impl Drop for Intx {
    fn drop(&mut self) {
        self.disable();
    }
}
