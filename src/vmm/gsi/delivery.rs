//! How the interrupts of one device reach KVM: by irqfds, or by a thread of this process
//! (`irqfd=off`).

use std::sync::Arc;

use pci::Message;
use vmm_sys_util::eventfd::EventFd;

use crate::counters::wakeups::WakeupMeter;
use crate::gsi::by_thread::{InterruptThread, Listening};
use crate::gsi::error::GsiError;
use crate::gsi::memory_messages::is_interrupt;
use crate::gsi::routing::GsiRouting;

/// How the interrupts of one device reach KVM.
#[derive(Clone)]
pub struct Delivery {
    /// The GSIs.
    pub routing: Arc<GsiRouting>,
    /// `None` with irqfds.
    thread: Option<Arc<InterruptThread>>,
    /// Counts the times at which a thread of this process woke.
    pub wakeups: Arc<WakeupMeter>,
}

/// Who raises a GSI when its eventfd is signalled.
pub enum Listener {
    /// KVM: the irqfd is assigned.
    Irqfd,
    /// A thread of this process, until this is dropped.
    Thread {
        /// Ends the listening.
        until_dropped: Listening,
    },
}

impl Delivery {
    /// By irqfds, or by `thread`.
    pub fn new(routing: Arc<GsiRouting>, irqfd: bool, thread: &Arc<InterruptThread>) -> Self {
        Self {
            routing,
            thread: (!irqfd).then(|| Arc::clone(thread)),
            wakeups: Arc::default(),
        }
    }

    /// The thread that listens to eventfds; `None` with irqfds.
    pub fn thread(&self) -> Option<&InterruptThread> {
        self.thread.as_deref()
    }

    /// Raises `gsi`, whose route is `message`, whenever `event` is signalled. A message that is no
    /// interrupt is written to RAM instead.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD, or the thread cannot listen.
    pub fn listen(
        &self,
        event: &EventFd,
        gsi: u32,
        message: Message,
    ) -> Result<Listener, GsiError> {
        if !is_interrupt(message) {
            let listening = self.routing.memory().listen(event, message);
            return Ok(Listener::Thread {
                until_dropped: listening.map_err(GsiError::Listen)?,
            });
        }
        let Some(thread) = self.thread() else {
            self.routing.assign_irqfd(event, gsi)?;
            return Ok(Listener::Irqfd);
        };
        let (routing, wakeups) = (Arc::clone(&self.routing), Arc::clone(&self.wakeups));
        let listening = thread.listen(event, move || {
            wakeups.count_delivered();
            routing.raise(gsi);
        });
        Ok(Listener::Thread {
            until_dropped: listening.map_err(GsiError::Listen)?,
        })
    }

    /// Ends what [`Delivery::listen`] has begun. Nothing raises `gsi` afterwards.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD; the listener stays.
    pub fn end(
        &self,
        listener: &mut Option<Listener>,
        event: &EventFd,
        gsi: u32,
    ) -> Result<(), GsiError> {
        if let Some(Listener::Irqfd) = listener {
            self.routing.deassign_irqfd(event, gsi)?;
        }
        *listener = None;
        Ok(())
    }
}
