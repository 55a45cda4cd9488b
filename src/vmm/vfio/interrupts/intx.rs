//! INTx: a level-triggered interrupt, which stays asserted until the guest acknowledges it.
//!
//! VFIO masks the pin when the device asserts it and signals the trigger eventfd, and KVM raises
//! the GSI. When the guest acknowledges the interrupt (EOI), KVM lowers the GSI and signals the
//! resample eventfd, by which VFIO unmasks the pin: if the device still asserts its pin, VFIO
//! signals again. All of this happens in the kernel (Documentation/virt/kvm/api.rst, 4.75
//! KVM_IRQFD_FLAG_RESAMPLE). If a device's VFIO driver does not take the resample eventfd, the
//! event thread unmasks the pin.
//!
//! With `irqfd=off` a thread stands on both ways ([`crate::gsi::by_thread`]): from the trigger
//! eventfd to KVM, and from the resample eventfd to VFIO. KVM tells of an acknowledgement only
//! where an irqfd has raised the level. So KVM has an irqfd all the same, and the thread signals
//! its eventfd.

use std::sync::{Arc, Weak};

use tracing::debug;
use vmm_sys_util::eventfd::EventFd;

use crate::event_thread::EventThread;
use crate::gsi::by_thread::Listening;
use crate::gsi::delivery::Delivery;
use crate::gsi::error::GsiError;
use crate::log::degraded::{self, Code};
use crate::log::error_chain::with_causes;
use crate::sys::eventfd;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::interrupts::error::VectorError;
use crate::vfio::interrupts::refused::tell_refused;

/// The interrupt pin of one device.
pub struct Intx {
    device: SharedDevice,
    delivery: Delivery,
    event_thread: Weak<EventThread>,
    gsi: u32,
    /// `None` while INTx is off.
    events: Option<Events>,
}

struct Events {
    /// KVM raises the GSI when this is signalled: by VFIO, or by the thread that `relay` is.
    level: EventFd,
    /// Passes VFIO's signal on to `level`, with `irqfd=off`: the device has asserted its pin, and
    /// VFIO has masked it.
    relay: Option<Listening>,
    /// From KVM to VFIO: the guest has acknowledged the interrupt.
    resample: EventFd,
    unmasks: Unmasks,
}

/// Who unmasks the pin when `resample` is signalled.
enum Unmasks {
    /// VFIO itself.
    Vfio,
    /// The event thread, by this watch; `None` if it cannot.
    EventThread(Option<u64>),
    /// The thread that delivers interrupts, until this is dropped.
    Thread { _until_dropped: Listening },
}

impl Intx {
    /// The pin of a device, to raise `gsi`; `None` when VFIO does not offer a pin.
    pub fn new(
        device: SharedDevice,
        delivery: Delivery,
        event_thread: Weak<EventThread>,
        gsi: u32,
    ) -> Option<Self> {
        device.irq(Irq::Intx)?;
        Some(Self {
            device,
            delivery,
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
        let connected = self.unmask_on(&resample).and_then(|unmasks| {
            let unmasked = self.device.unmask(Irq::Intx);
            let raised = self.raise_on(trigger, &resample);
            match raised {
                Ok(raised) => Ok((raised, unmasks, unmasked)),
                Err(e) => {
                    self.unwatch(&unmasks);
                    Err(e)
                }
            }
        });
        match connected {
            Err(e) => {
                self.disable_in_vfio();
                Err(e.into())
            }
            Ok(((level, relay), unmasks, unmasked)) => {
                self.events = Some(Events {
                    level,
                    relay,
                    resample,
                    unmasks,
                });
                Ok(unmasked?)
            }
        }
    }

    /// Makes KVM raise the GSI when VFIO signals `trigger`. Returns the eventfd that KVM has and,
    /// with `irqfd=off`, what passes VFIO's signals on to it.
    fn raise_on(
        &self,
        trigger: EventFd,
        resample: &EventFd,
    ) -> Result<(EventFd, Option<Listening>), GsiError> {
        let Some(thread) = self.delivery.thread() else {
            self.delivery
                .routing
                .assign_level_irqfd(&trigger, resample, self.gsi)?;
            return Ok((trigger, None));
        };
        let level = eventfd::new().map_err(GsiError::EventFd)?;
        let signalled = level.try_clone().map_err(GsiError::EventFd)?;
        self.delivery
            .routing
            .assign_level_irqfd(&level, resample, self.gsi)?;
        let wakeups = Arc::clone(&self.delivery.wakeups);
        let relay = thread.listen(&trigger, move || {
            wakeups.count_delivered();
            // A write of 1 fails only if the counter would overflow, after 2^64 events.
            let _ = signalled.write(1);
        });
        match relay {
            Ok(relay) => Ok((level, Some(relay))),
            Err(e) => {
                self.deassign(&level);
                Err(GsiError::Listen(e))
            }
        }
    }

    /// Lets VFIO, or a thread, unmask the pin whenever `resample` is signalled.
    fn unmask_on(&self, resample: &EventFd) -> Result<Unmasks, GsiError> {
        if let Some(thread) = self.delivery.thread() {
            let listening = thread.listen(resample, self.unmask());
            return Ok(Unmasks::Thread {
                _until_dropped: listening.map_err(GsiError::Listen)?,
            });
        }
        match self.device.set_unmask_event(eventfd::borrow(resample)) {
            Ok(()) => Ok(Unmasks::Vfio),
            Err(e) => {
                tell_by_thread(self.device.name(), &e);
                Ok(Unmasks::EventThread(self.watch(resample)))
            }
        }
    }

    /// Unmasks the pin.
    fn unmask(&self) -> impl Fn() + Send + Sync + 'static {
        let device = Arc::clone(&self.device);
        let wakeups = Arc::clone(&self.delivery.wakeups);
        move || {
            wakeups.count_unmasked();
            if let Err(e) = device.unmask(Irq::Intx) {
                debug!("{}", with_causes(&e));
            }
        }
    }

    /// Lets the event thread unmask the pin whenever `resample` is signalled.
    fn watch(&self, resample: &EventFd) -> Option<u64> {
        let thread = self.event_thread.upgrade()?;
        match thread.watch(resample, self.unmask()) {
            Ok(key) => Some(key),
            Err(e) => {
                let what = "INTx stays masked after its first interrupt";
                tell_refused(self.device.name(), what, &e);
                None
            }
        }
    }

    fn unwatch(&self, unmasks: &Unmasks) {
        if let (Unmasks::EventThread(Some(key)), Some(thread)) =
            (unmasks, self.event_thread.upgrade())
        {
            thread.unwatch(*key);
        }
    }

    fn deassign(&self, level: &EventFd) {
        if let Err(e) = self.delivery.routing.deassign_irqfd(level, self.gsi) {
            tell_refused(self.device.name(), "KVM keeps INTx", &e);
        }
    }

    /// Turns INTx off; KVM lowers the GSI.
    pub fn disable(&mut self) {
        let Some(events) = self.events.take() else {
            return;
        };
        drop(events.relay);
        self.unwatch(&events.unmasks);
        self.deassign(&events.level);
        drop(events.unmasks);
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
