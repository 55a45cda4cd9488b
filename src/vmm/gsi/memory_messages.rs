//! Messages that are no interrupts. A message is a memory write (PCI Express 6.0, 6.1.4), and the
//! local APICs take the writes to 0xfee00000-0xfeefffff alone (Intel SDM, volume 3, 11.11.1). KVM
//! takes any address for theirs, and looks at its low bits only. So a message to another address
//! never becomes a route of KVM: it is written to the guest's RAM, as a bus does. Where there is no
//! RAM, it is dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pci::Message;
use tracing::debug;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::gsi::by_thread::{InterruptThread, Listening};
use crate::layout;
use crate::memory::guest_memory::GuestMemory;

/// Whether the local APICs take a message.
pub fn is_interrupt(message: Message) -> bool {
    message.address & !0xf_ffff == u64::from(layout::LAPIC_ADDR)
}

/// The guest's RAM, for messages that are no interrupts.
pub struct MemoryMessages {
    memory: GuestMemory,
    /// Waits for the eventfds of such messages. It is made for the first of them.
    thread: InterruptThread,
}

impl MemoryMessages {
    /// Messages to this RAM.
    pub fn new(memory: GuestMemory) -> Arc<Self> {
        Arc::new(Self {
            memory,
            thread: InterruptThread::default(),
        })
    }

    /// Writes a message to RAM.
    pub fn write(&self, message: Message) {
        write(&self.memory, message);
    }

    /// Writes `message` to RAM whenever `event` is signalled, until the result is dropped. Nothing
    /// is written afterwards.
    ///
    /// # Errors
    /// The host has no descriptor or no thread left.
    pub fn listen(&self, event: &EventFd, message: Message) -> io::Result<Listening> {
        // The action must not own the thread that runs it.
        let memory = self.memory.clone();
        self.thread.listen(event, move || write(&memory, message))
    }
}

fn write(memory: &GuestMemory, message: Message) {
    let at = GuestAddress(message.address);
    let outcome = memory.store(message.data, at, Ordering::Release);
    debug!(?message, ?outcome, "a message that is no interrupt");
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
