//! Interrupts of the devices that this program emulates: the guest's root ports. They are rare, so
//! each is a call to KVM, and needs neither an eventfd nor a GSI of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use pci::Message;
use tracing::debug;

use crate::gsi::memory_messages::{MemoryMessages, is_interrupt};
use crate::gsi::routing::GsiRouting;

/// Sends messages, and keeps the levels of pins.
pub struct EmulatedInterrupts {
    vm: Arc<VmFd>,
    memory: Arc<MemoryMessages>,
    /// The devices that assert a GSI. KVM has one level for all of them.
    asserted: Mutex<BTreeMap<u32, BTreeSet<u8>>>,
}

impl EmulatedInterrupts {
    /// No pin is asserted.
    pub fn new(routing: &GsiRouting) -> Self {
        Self {
            vm: Arc::clone(routing.vm()),
            memory: Arc::clone(routing.memory()),
            asserted: Mutex::default(),
        }
    }

    /// Sends a message (Documentation/virt/kvm/api.rst, 4.71 KVM_SIGNAL_MSI). KVM refuses one that
    /// no processor takes, and the guest chose it: it is dropped, as on a bus.
    pub fn send(&self, message: Message) {
        if !is_interrupt(message) {
            return self.memory.write(message);
        }
        let outcome = self.vm.signal_msi(kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..kvm_msi::default()
        });
        debug!(?message, ?outcome, "KVM_SIGNAL_MSI");
    }

    /// Lets `device` assert a GSI or not. The GSI is asserted while any device asserts it (api.rst,
    /// 4.25 KVM_IRQ_LINE).
    pub fn set_level(&self, gsi: u32, device: u8, level: bool) {
        // The lock keeps the order of two vCPUs' calls.
        let mut asserted = self.asserted.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = asserted.entry(gsi).or_default();
        let before = !devices.is_empty();
        match level {
            true => devices.insert(device),
            false => devices.remove(&device),
        };
        let now = !devices.is_empty();
        if now != before {
            let outcome = self.vm.set_irq_line(gsi, now);
            debug!(gsi, now, ?outcome, "KVM_IRQ_LINE");
        }
    }
}
