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
use crate::log::degraded::{self, Code};
use crate::log::error_chain::with_causes;
use crate::sys::eventfd;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::interrupts::error::VectorError;
use crate::vfio::interrupts::refused::tell_refused;

/// The interrupt pin of one device.
pub struct Intx {
    device: SharedDevice,
    routing: Arc<GsiRouting>,
    event_thread: Weak<EventThread>,
    gsi: u32,
    /// `None` while INTx is off.
    events: Option<Events>,
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
        })
    }

    /// The GSI.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Turns INTx on. MSI and MSI-X must be off. A failure is logged.
    pub fn enable(&mut self) {
        if self.events.is_some() {
            return;
        }
        if let Err(e) = self.connect() {
            tell_refused(self.device.name(), "no interrupts by INTx", &e);
        }
    }

    /// VFIO holds the pin masked until it has both eventfds. KVM gets them last: while the device
    /// asserts its pin, VFIO signals once for the eventfd and once for the unmasking, and in an
    /// eventfd that KVM does not have yet both are one event. Otherwise KVM may raise the GSI for
    /// the second signal after the guest has acknowledged the first, which is an interrupt too
    /// many. An event that comes before KVM has the eventfd is not lost: KVM looks for it.
    fn connect(&mut self) -> Result<(), VectorError> {
        let trigger = eventfd::new().map_err(GsiError::EventFd)?;
        let resample = eventfd::new().map_err(GsiError::EventFd)?;
        let event = Some(eventfd::borrow(&trigger));
        self.device.set_events(Irq::Intx, 0, &[event])?;
        if let Err(e) = self.device.mask(Irq::Intx) {
            self.disable_in_vfio();
            return Err(e.into());
        }
        let watch = match self.device.set_unmask_event(eventfd::borrow(&resample)) {
            Ok(()) => None,
            Err(e) => {
                tell_by_thread(self.device.name(), &e);
                self.watch(&resample)
            }
        };
        let unmasked = self.device.unmask(Irq::Intx);
        let gsi = self.gsi;
        if let Err(e) = self.routing.assign_level_irqfd(&trigger, &resample, gsi) {
            self.unwatch(watch);
            self.disable_in_vfio();
            return Err(e.into());
        }
        self.events = Some(Events {
            trigger,
            resample,
            watch,
        });
        Ok(unmasked?)
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
                let what = "INTx stays masked after its first interrupt";
                tell_refused(self.device.name(), what, &e);
                None
            }
        }
    }

    fn unwatch(&self, watch: Option<u64>) {
        if let (Some(key), Some(thread)) = (watch, self.event_thread.upgrade()) {
            thread.unwatch(key);
        }
    }

    /// Turns INTx off; KVM lowers the GSI.
    pub fn disable(&mut self) {
        let Some(events) = self.events.take() else {
            return;
        };
        self.unwatch(events.watch);
        if let Err(e) = self.routing.deassign_irqfd(&events.trigger, self.gsi) {
            tell_refused(self.device.name(), "KVM keeps INTx", &e);
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
            tell_refused(self.device.name(), "INTx stays on", &e);
        }
    }
}

fn tell_by_thread(device: &str, error: &DeviceError) {
    let loss = Code::IntxByThread.loss(
        "each interrupt of the pin wakes a thread of mini-vmm",
        with_causes(error),
    );
    degraded::tell(loss.of(device).hint(
        "let the guest's driver use MSI or MSI-X if the device has them; otherwise nothing: the \
         device's VFIO driver cannot do better",
    ));
}

impl Drop for Intx {
    fn drop(&mut self) {
        self.disable();
    }
}
