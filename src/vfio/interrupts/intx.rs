//! INTx: a level that stays up until the device is served.
//!
//! VFIO masks the pin when it fires and signals an eventfd; KVM raises the GSI, and when the guest
//! acknowledges it (EOI) lowers it and signals a second eventfd, which VFIO takes as "unmask": if the
//! device still asks, the pin fires again. All of it is in the kernel
//! (Documentation/virt/kvm/api.rst, 4.75 KVM_IRQFD_FLAG_RESAMPLE). A device whose VFIO driver does
//! not take the second eventfd is unmasked by the notice thread instead.

use std::sync::Arc;

use tracing::{debug, warn};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::VectorError;
use crate::interrupt::irqfd;
use crate::interrupt::service::Service;
use crate::interrupt::{InterruptError, Router};
use crate::observe::report::sentence;
use crate::vfio::device::{Irq, SharedDevice};

/// The interrupt pin of one device.
pub struct Intx {
    device: SharedDevice,
    router: Arc<Router>,
    service: Arc<Service>,
    gsi: u32,
    wired: Option<Wired>,
}

struct Wired {
    /// VFIO to KVM: the pin has fired.
    fired: EventFd,
    /// KVM to VFIO: the guest has served it.
    served: EventFd,
    /// The watch of the notice thread, where VFIO does not listen to `served`.
    watch: Option<u64>,
}

impl Intx {
    /// For a device that has a pin, wired to `gsi`; `None` when VFIO does not offer it.
    pub fn new(
        device: SharedDevice,
        router: Arc<Router>,
        service: Arc<Service>,
        gsi: u32,
    ) -> Option<Self> {
        device.irq(Irq::Intx)?;
        Some(Self {
            device,
            router,
            service,
            gsi,
            wired: None,
        })
    }

    /// Wires the pin. MSI and MSI-X must be off.
    pub fn enable(&mut self) {
        if self.wired.is_none()
            && let Err(e) = self.wire()
        {
            warn!(
                "{}: no interrupts by its pin: {}",
                self.device.name(),
                sentence(&e)
            );
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
                    sentence(&e)
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
                debug!("{}", sentence(&e));
            }
        };
        match self.service.watch(served, unmask) {
            Ok(key) => Some(key),
            Err(e) => {
                warn!(
                    "{}: its pin stays masked after it has fired: {e}",
                    self.device.name()
                );
                None
            }
        }
    }

    /// Unwires the pin; KVM lowers its GSI.
    pub fn disable(&mut self) {
        let Some(wired) = self.wired.take() else {
            return;
        };
        if let Some(key) = wired.watch {
            self.service.unwatch(key);
        }
        if let Err(e) = self.router.detach(&wired.fired, self.gsi) {
            warn!(
                "{}: its pin stays wired: {}",
                self.device.name(),
                sentence(&e)
            );
        }
        self.turn_off();
        drop(wired.served);
    }

    fn turn_off(&self) {
        if let Err(e) = self.device.disable(Irq::Intx) {
            warn!("{}: its pin stays on: {}", self.device.name(), sentence(&e));
        }
    }
}

impl Drop for Intx {
    fn drop(&mut self) {
        self.disable();
    }
}
