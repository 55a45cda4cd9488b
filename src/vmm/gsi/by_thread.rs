//! Interrupts by a thread of this process, for devices with `irqfd=off`: VFIO signals an eventfd,
//! the thread wakes and calls KVM. An irqfd does the same inside the kernel.
//!
//! The thread is made for the first such device, and all of them share it. It is not the thread of
//! device events ([`crate::event_thread`]), because giving a device back may keep that busy.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::event_thread::EventThread;

/// The thread, which starts with the first interrupt that it delivers.
#[derive(Default)]
pub struct InterruptThread {
    thread: Mutex<Option<Arc<EventThread>>>,
}

/// What is done for a signalled eventfd.
type Action = Box<dyn Fn() + Send>;

/// Listens to an eventfd until dropped. Afterwards the action does not run, and is gone with all
/// that it refers to. An event that comes then stays in the eventfd.
pub struct Listening {
    thread: Arc<EventThread>,
    key: u64,
    /// Taken out at the end. The action runs with the lock held.
    action: Arc<Mutex<Option<Action>>>,
}

impl InterruptThread {
    /// Runs `action` on the thread whenever `event` is signalled. Events that have gathered in
    /// `event` count as one.
    ///
    /// # Errors
    /// The host has no descriptor or no thread left.
    pub fn listen(
        &self,
        event: &EventFd,
        action: impl Fn() + Send + 'static,
    ) -> io::Result<Listening> {
        let thread = self.thread()?;
        let action: Arc<Mutex<Option<Action>>> = Arc::new(Mutex::new(Some(Box::new(action))));
        let shared = Arc::clone(&action);
        let key = thread.watch_unread(event, move |event| {
            // The event is taken only together with the action: masked, it must stay pending.
            if let Some(action) = &*lock(&shared)
                && event.read().is_ok()
            {
                action();
            }
        })?;
        Ok(Listening {
            thread,
            key,
            action,
        })
    }

    fn thread(&self) -> io::Result<Arc<EventThread>> {
        let mut thread = lock(&self.thread);
        let made = match &*thread {
            Some(made) => Arc::clone(made),
            None => Arc::new(EventThread::new("interrupts")?),
        };
        Ok(Arc::clone(thread.insert(made)))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(lock(&self.action).take());
        self.thread.unwatch(self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::sys::eventfd;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn no_event_is_taken_after_the_end() {
        let (thread, event) = (InterruptThread::default(), eventfd::new().unwrap());
        for _ in 0..200 {
            let (sender, receiver) = mpsc::channel();
            let listening = thread.listen(&event, move || sender.send(()).unwrap());
            event.write(1).unwrap();
            receiver.recv_timeout(LONG).unwrap();
            // Signalled again just before the end: the action has run, or the event is still there.
            event.write(1).unwrap();
            drop(listening.unwrap());
            let ran = receiver.try_recv().is_ok();
            assert_eq!(event.read().is_ok(), !ran);
            // The action is gone, and the sender with it.
            assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        }
    }

    #[test]
    fn an_event_that_waits_is_delivered_at_once() {
        let (thread, event) = (InterruptThread::default(), eventfd::new().unwrap());
        event.write(3).unwrap();
        let (sender, receiver) = mpsc::channel();
        let _listening = thread.listen(&event, move || sender.send(()).unwrap());
        receiver.recv_timeout(LONG).unwrap();
        assert!(event.read().is_err());
        assert!(receiver.try_recv().is_err());
    }
}
