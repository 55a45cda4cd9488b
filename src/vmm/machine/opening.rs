//! Opens the devices with which the guest begins, beside the guest.
//!
//! What resets no device comes before the guest's first instruction, and so does what the user can
//! be told by then. A thread then opens the devices, makes them the guest's functions, and opens
//! the latch for which an access to them waits ([`DevicesOpen`]). It does so with the lock of
//! changes, as an add does ([`super::plug_add`]): the VM is reset before or after that.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tracing::{debug, info};

use crate::guest_event::{GuestEvent, Notifier};
use crate::log::error_chain::with_causes;
use crate::machine::error::MachineError;
use crate::sandbox::{self, Kind};
use crate::vcpu::devices_open::DevicesOpen;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::{Begun, DeviceSet, Opened, VfioError};

/// What is done with the devices once they are open.
pub(super) type Attach = Box<dyn FnOnce(Opened) -> Result<(), MachineError> + Send>;

/// The opening of a machine's devices. Dropping it ends it.
pub(super) struct Opening {
    latch: Arc<DevicesOpen>,
    /// Gets what is done with the devices. Without it, they are closed again.
    attach: Option<Sender<Attach>>,
    /// Why the thread has ended without success.
    failure: Arc<Mutex<Option<MachineError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Opening {
    /// Closes the latch, and starts the thread. Returns when all is done that resets no device,
    /// with the interface that opens the devices.
    ///
    /// # Errors
    /// The first step that fails. Everything that was open is closed again.
    pub fn start(
        set: &Arc<DeviceSet>,
        candidates: &[Candidate],
        latch: &Arc<DevicesOpen>,
        notifier: &Arc<Notifier>,
    ) -> Result<Starting, MachineError> {
        let (set, candidates) = (Arc::clone(set), candidates.to_vec());
        let (tell, begun) = mpsc::channel();
        let (attach, to_attach) = mpsc::channel::<Attach>();
        let (begins, first) = (Arc::clone(&set), candidates.clone());
        let over = Arc::clone(latch);
        let begin = move || begins.begin(&first);
        let finish = move |begun: Result<Begun, VfioError>| {
            let begun = match begun {
                Ok(begun) => begun,
                Err(e) => {
                    // The machine is not made.
                    let _ = tell.send(Err(e));
                    return Ok(());
                }
            };
            // The machine may have failed meanwhile.
            let _ = tell.send(Ok(begun.interface()));
            let opened = set.finish(begun)?;
            match to_attach.recv() {
                Ok(attach) if !over.is_over() => attach(opened),
                // The machine is not made, or the run is over.
                Ok(_) | Err(_) => Ok(()),
            }
        };
        info!("the devices are opened beside the guest");
        let mut opening = Self::spawn(latch, notifier, begin, finish)?;
        opening.attach = Some(attach);
        Ok(Starting { opening, begun })
    }

    /// Closes the latch, and starts a thread that does `first` and then, confined as one that adds
    /// devices, `rest`. If that fails, the notifier ends the run.
    ///
    /// # Errors
    /// The host has no threads left.
    pub fn spawn<B>(
        latch: &Arc<DevicesOpen>,
        notifier: &Arc<Notifier>,
        first: impl FnOnce() -> B + Send + 'static,
        rest: impl FnOnce(B) -> Result<(), MachineError> + Send + 'static,
    ) -> Result<Self, MachineError> {
        latch.close();
        let failure: Arc<Mutex<Option<MachineError>>> = Arc::default();
        let (over, why, notifier) = (
            Arc::clone(latch),
            Arc::clone(&failure),
            Arc::clone(notifier),
        );
        let thread = thread::Builder::new().name("open devices".into());
        let thread = thread.spawn(move || {
            let first = first();
            sandbox::enter(Kind::Changes);
            if let Err(e) = rest(first) {
                debug!("{}", with_causes(&e));
                *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                over.give_up();
                notifier.notify(GuestEvent::Broken("its devices cannot be opened".into()));
            }
        });
        Ok(Self {
            latch: Arc::clone(latch),
            attach: None,
            failure,
            thread: Some(thread.map_err(MachineError::Descriptors)?),
        })
    }

    /// Lets the thread make functions of the devices once they are open.
    pub fn go_on(&mut self, attach: Attach) {
        // If the thread has ended, `check` returns the reason.
        let _ = self.attach.take().map(|sender| sender.send(attach));
    }

    /// Whether the devices are still being opened.
    pub fn goes_on(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }

    /// # Errors
    /// Why the devices cannot be opened, if opening has failed by now. Told once.
    pub fn check(&self) -> Result<(), MachineError> {
        let failure = self.failure.lock();
        let failure = failure.unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }
}

/// The run is over. Nobody waits for the devices any more but this: for calls that open them, as
/// long as the opener does.
impl Drop for Opening {
    fn drop(&mut self) {
        self.latch.give_up();
        self.attach = None;
        self.join();
    }
}

/// An opening that has begun. The devices' nodes may not be open yet.
pub(super) struct Starting {
    opening: Opening,
    begun: mpsc::Receiver<Result<&'static str, VfioError>>,
}

impl Starting {
    /// Waits until all is done that resets no device. Returns the interface that opens the devices.
    ///
    /// # Errors
    /// The first step that fails.
    pub fn wait(self) -> Result<(Opening, &'static str), MachineError> {
        let begun = self.begun.recv().map_err(|_| MachineError::Thread)?;
        Ok((self.opening, begun?))
    }
}
