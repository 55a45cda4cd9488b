//! Messages that are no interrupts. A message is a memory write (PCI Express 6.0, 6.1.4), and the
//! local APICs take the writes to 0xfee00000-0xfeefffff alone (Intel SDM, volume 3, 11.11.1). KVM
//! takes any address for theirs, and looks at its low bits only. So a message to another address
//! never becomes a route of KVM: it is written to the guest's RAM, as a bus does. Where there is no
//! RAM, it is dropped.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pci::Message;
use tracing::debug;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::event_thread::EventThread;
use crate::layout;
use crate::memory::guest_memory::GuestMemory;

/// Whether the local APICs take a message.
pub fn is_interrupt(message: Message) -> bool {
    message.address & !0xf_ffff == u64::from(layout::LAPIC_ADDR)
}

/// The guest's RAM, for messages that are no interrupts.
pub struct MemoryMessages {
    memory: GuestMemory,
    /// Waits for the eventfds of such messages. It is made for the first of them, and apart from
    /// the thread of device events, which a storm of messages must not hold up.
    thread: Mutex<Option<Arc<EventThread>>>,
}

impl MemoryMessages {
    /// Messages to this RAM.
    pub fn new(memory: GuestMemory) -> Arc<Self> {
        Arc::new(Self {
            memory,
            thread: Mutex::new(None),
        })
    }

    /// Writes a message to RAM.
    pub fn write(&self, message: Message) {
        write(&self.memory, message);
    }

    /// Writes `message` to RAM whenever `event` is signalled, until the result is dropped.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub fn watch(&self, event: &EventFd, message: Message) -> io::Result<Watch> {
        let thread = self.thread()?;
        let target = Arc::new(Mutex::new(Some(message)));
        // The thread must not own this value, which owns the thread.
        let (memory, now) = (self.memory.clone(), Arc::clone(&target));
        let again = event.try_clone()?;
        let key = thread.watch(event, move || match *lock(&now) {
            Some(message) => write(&memory, message),
            // Masked just now: the event stays pending.
            None => drop(again.write(1)),
        })?;
        Ok(Watch {
            thread,
            key,
            target,
        })
    }

    fn thread(&self) -> io::Result<Arc<EventThread>> {
        let mut thread = lock(&self.thread);
        match &*thread {
            Some(thread) => Ok(Arc::clone(thread)),
            None => Ok(Arc::clone(thread.insert(Arc::new(EventThread::new()?)))),
        }
    }
}

fn write(memory: &GuestMemory, message: Message) {
    let at = GuestAddress(message.address);
    let outcome = memory.store(message.data, at, Ordering::Release);
    debug!(?message, ?outcome, "a message that is no interrupt");
}

/// An eventfd whose message is written to RAM.
pub struct Watch {
    thread: Arc<EventThread>,
    key: u64,
    target: Arc<Mutex<Option<Message>>>,
}

impl Drop for Watch {
    /// Nothing is written afterwards: a write that has begun has ended.
    fn drop(&mut self) {
        *lock(&self.target) = None;
        self.thread.unwatch(self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_apics_take_one_mebibyte() {
        let is = |address| is_interrupt(Message { address, data: 0 });
        for address in [0xfee0_0000, 0xfee0_1004, 0xfeef_fffc] {
            assert!(is(address), "{address:#x}");
        }
        let high = [0x1_fee0_1000, 0x0100_fee0_0000, 0xffff_ffff_fee0_0000];
        for address in [0, 0x1000, 0xfedf_fffc, 0xfef0_0000, 0xffe0_1000]
            .iter()
            .chain(&high)
        {
            assert!(!is(*address), "{address:#x}");
        }
    }
}
