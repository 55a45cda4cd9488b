//! A thread that waits for eventfds and calls a handler for each that is signalled.
//!
//! The events come from the devices of the host: VFIO signals that a device has failed or that the
//! host asks for the device back. If VFIO cannot unmask INTx itself, KVM signals that the guest has
//! acknowledged an interrupt of the pin ([`crate::vfio::interrupts`]). All other interrupts stay in
//! the kernel, except those of devices with `irqfd=off` ([`crate::gsi::by_thread`]). The main loop
//! ([`crate::lifecycle`]) does not handle these events, because it may be busy and delay them.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use crate::sandbox::{self, Kind};
use crate::sys::eventfd;

type Handler = Box<dyn Fn(&EventFd) + Send + Sync>;

/// The key of the event that ends the thread.
const STOP: u64 = 0;

/// Calls a handler for each signalled eventfd, on a thread that starts with the first watch.
pub struct EventThread {
    name: &'static str,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    epoll: EpollFd,
    stop: EventFd,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    last: u64,
    live: HashMap<u64, Arc<Watch>>,
}

struct Watch {
    event: EventFd,
    handler: Handler,
}

/// An epoll instance that is closed when dropped.
struct EpollFd(i32);

impl Drop for EpollFd {
    fn drop(&mut self) {
        // Closing an own descriptor cannot fail.
        let _ = epoll::close(self.0);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventThread {
    /// Makes the epoll instance; the thread of this name starts with the first
    /// [`EventThread::watch`].
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(name: &'static str) -> io::Result<Self> {
        let epoll = EpollFd(epoll::create(true)?);
        let stop = eventfd::new()?;
        add(&epoll, &stop, STOP)?;
        let shared = Arc::new(Shared {
            epoll,
            stop,
            watches: Mutex::default(),
        });
        Ok(Self {
            name,
            shared,
            thread: Mutex::new(None),
        })
    }

    /// Starts the thread, if it does not run.
    ///
    /// # Errors
    /// The errno of starting a thread.
    pub fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let worker = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name(self.name.into());
            *thread = Some(builder.spawn(move || {
                sandbox::enter(Kind::Events);
                serve(&worker);
            })?);
        }
        Ok(())
    }

    /// Calls `handler` on the thread whenever `event` is signalled; returns a key for
    /// [`EventThread::unwatch`].
    ///
    /// # Errors
    /// The errno of epoll_ctl(2), or of starting the thread.
    pub fn watch(
        &self,
        event: &EventFd,
        handler: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<u64> {
        self.watch_unread(event, move |event| {
            // Reading the counter re-arms the event.
            let _ = event.read();
            handler();
        })
    }

    /// As [`EventThread::watch`]. The handler is called again until it has read the event.
    ///
    /// # Errors
    /// As [`EventThread::watch`].
    pub fn watch_unread(
        &self,
        event: &EventFd,
        handler: impl Fn(&EventFd) + Send + Sync + 'static,
    ) -> io::Result<u64> {
        self.start()?;
        let event = event.try_clone()?;
        let mut watches = self.shared.lock();
        watches.last += 1;
        let key = watches.last;
        add(&self.shared.epoll, &event, key)?;
        let handler = Box::new(handler);
        watches.live.insert(key, Arc::new(Watch { event, handler }));
        Ok(key)
    }

    /// Ends a watch. A call of the handler that has begun may still be running.
    pub fn unwatch(&self, key: u64) {
        let watch = self.shared.lock().live.remove(&key);
        if let Some(watch) = watch {
            let none = epoll::Event::new(epoll::Events::empty(), 0);
            let op = epoll::ControlOptions::EPOLL_CTL_DEL;
            if let Err(e) = epoll::ctl(self.shared.epoll.0, op, watch.event.as_raw_fd(), none) {
                warn!("cannot stop watching an event: {e}");
            }
        }
    }

    /// Ends the thread, and waits for a running handler to return. A handler must not call this.
    pub fn stop(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A full counter wakes the thread too. A panic would have ended the process.
            let _ = self.shared.stop.write(1);
            let _ = thread.join();
        }
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.stop();
    }
}

fn add(epoll: &EpollFd, event: &EventFd, key: u64) -> io::Result<()> {
    let interest = epoll::Event::new(epoll::Events::EPOLLIN, key);
    epoll::ctl(
        epoll.0,
        epoll::ControlOptions::EPOLL_CTL_ADD,
        event.as_raw_fd(),
        interest,
    )
}

fn serve(shared: &Shared) {
    let mut ready = [epoll::Event::new(epoll::Events::empty(), 0); 16];
    loop {
        let count = match epoll::wait(shared.epoll.0, -1, &mut ready) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return warn!("the thread of device events has ended: {e}"),
        };
        for event in ready.iter().take(count) {
            let key = event.data;
            if key == STOP {
                return;
            }
            let watch = shared.lock().live.get(&key).cloned();
            if let Some(watch) = watch {
                (watch.handler)(&watch.event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn handlers_are_called_until_unwatched() {
        let thread = EventThread::new("events").unwrap();
        let event = eventfd::new().unwrap();
        let (sender, receiver) = mpsc::channel();
        let key = thread
            .watch(&event, move || sender.send(()).unwrap())
            .unwrap();
        for _ in 0..3 {
            event.write(1).unwrap();
            receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        thread.unwatch(key);
        event.write(1).unwrap();
        // The handler, and with it the sender, is gone.
        assert!(receiver.recv_timeout(Duration::from_secs(10)).is_err());
    }

    #[test]
    fn a_handler_may_end_its_own_watch() {
        let thread = Arc::new(EventThread::new("events").unwrap());
        let event = eventfd::new().unwrap();
        let (sender, receiver) = mpsc::channel();
        let weak = Arc::downgrade(&thread);
        thread
            .watch(&event, move || {
                weak.upgrade().unwrap().unwatch(1);
                sender.send(()).unwrap();
            })
            .unwrap();
        event.write(1).unwrap();
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
