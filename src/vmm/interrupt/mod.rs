//! Interrupts into the guest: GSIs, the routing table, and what feeds them.
//!
//! KVM's irqchip has 24 IOAPIC pins, GSIs 0 to 23, of which the first 16 lead to the PIC as well. Every message-signalled interrupt gets a GSI of
//! its own above them, whose route holds the message (Documentation/virt/kvm/api.rst, 4.52
//! KVM_SET_GSI_ROUTING). The whole table is replaced by each call, and each call waits for a grace
//! period of some milliseconds: changes are collected and committed together.

pub mod irqchip;
pub mod irqfd;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{Cap, VmFd};
use pci::Message;
use tracing::debug;
use vm_allocator::IdAllocator;
use vmm_sys_util::eventfd::EventFd;

use crate::layout::IOAPIC_PINS;

/// Pins of the two 8259A together. They are masked from power-on ([`irqchip`]) and Linux leaves them so.
const PIC_PINS: u32 = 16;

/// Why an interrupt cannot be wired.
#[derive(Debug, thiserror::Error)]
pub enum InterruptError {
    /// The routing table is full.
    #[error("all of KVM's interrupt routes are in use")]
    NoGsi,
    /// The table was not accepted.
    #[error("KVM_SET_GSI_ROUTING failed")]
    Routing(#[source] kvm_ioctls::Error),
    /// The table is larger than its type can hold.
    #[error("the interrupt routing table has too many entries")]
    TooMany,
    /// An irqfd was refused.
    #[error("KVM_IRQFD for GSI {gsi} failed")]
    Irqfd {
        /// The interrupt.
        gsi: u32,
        /// The errno.
        source: kvm_ioctls::Error,
    },
    /// No eventfd.
    #[error("cannot make an eventfd")]
    EventFd(#[source] std::io::Error),
}

/// The routing table and the GSIs in it.
pub struct Router {
    vm: Arc<VmFd>,
    state: Mutex<State>,
}

struct State {
    gsis: IdAllocator,
    messages: BTreeMap<u32, Message>,
    /// What KVM has differs from `messages` in a way that matters.
    dirty: bool,
}

impl Router {
    /// The table that KVM_CREATE_IRQCHIP has made (api.rst, 4.24): the IOAPIC's pins, and the PIC's.
    /// Nothing is sent: that would cost a grace period before the guest's first instruction.
    ///
    /// # Errors
    /// When KVM has no routes to give.
    pub fn new(vm: Arc<VmFd>) -> Result<Arc<Self>, InterruptError> {
        let routes = u32::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        // The table can hold `routes` entries, and those of the pins are among them.
        let last = routes.max(PIC_PINS + IOAPIC_PINS + 1) - PIC_PINS - 1;
        let gsis = IdAllocator::new(IOAPIC_PINS, last).map_err(|_| InterruptError::NoGsi)?;
        let state = State {
            gsis,
            messages: BTreeMap::new(),
            dirty: false,
        };
        Ok(Arc::new(Self {
            vm,
            state: Mutex::new(state),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a GSI for a message-signalled interrupt.
    ///
    /// # Errors
    /// [`InterruptError::NoGsi`].
    pub fn allocate(&self) -> Result<u32, InterruptError> {
        self.lock()
            .gsis
            .allocate_id()
            .map_err(|_| InterruptError::NoGsi)
    }

    /// Gives a GSI back. Its route leaves the table with the next commit; until then nothing can
    /// raise it, because its irqfd is gone.
    pub fn free(&self, gsi: u32) {
        let mut state = self.lock();
        state.messages.remove(&gsi);
        // An unknown id is the allocator's only error, and there is nothing to do about it.
        let _ = state.gsis.free_id(gsi);
    }

    /// Says what message a GSI stands for, from the next [`Router::commit`] on.
    pub fn route(&self, gsi: u32, message: Message) {
        let mut state = self.lock();
        if state.messages.insert(gsi, message) != Some(message) {
            state.dirty = true;
        }
    }

    /// Hands the table to KVM if a route changed.
    ///
    /// # Errors
    /// When KVM refuses it; the old table stays in force.
    pub fn commit(&self) -> Result<(), InterruptError> {
        let mut state = self.lock();
        if !state.dirty {
            return Ok(());
        }
        let pins = (0..PIC_PINS)
            .map(pic_entry)
            .chain((0..IOAPIC_PINS).map(ioapic_entry));
        let messages = state
            .messages
            .iter()
            .map(|(gsi, message)| msi_entry(*gsi, *message));
        let entries: Vec<_> = pins.chain(messages).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| InterruptError::TooMany)?;
        debug!(entries = entries.len(), "KVM_SET_GSI_ROUTING");
        self.vm
            .set_gsi_routing(&table)
            .map_err(InterruptError::Routing)?;
        state.dirty = false;
        Ok(())
    }

    /// Lets `event` raise `gsi` inside the kernel.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD.
    pub fn attach(&self, event: &EventFd, gsi: u32) -> Result<(), InterruptError> {
        debug!(gsi, "KVM_IRQFD assign");
        self.vm
            .register_irqfd(event, gsi)
            .map_err(|source| InterruptError::Irqfd { gsi, source })
    }

    /// Lets `event` raise `gsi` as a level: it stays up until the guest acknowledges it, and then
    /// `served` is signalled.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD.
    pub fn attach_level(
        &self,
        event: &EventFd,
        served: &EventFd,
        gsi: u32,
    ) -> Result<(), InterruptError> {
        debug!(gsi, "KVM_IRQFD assign, resample");
        self.vm
            .register_irqfd_with_resample(event, served, gsi)
            .map_err(|source| InterruptError::Irqfd { gsi, source })
    }

    /// Ends what [`Router::attach`] or [`Router::attach_level`] began; events that came before it have been delivered.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD.
    pub fn detach(&self, event: &EventFd, gsi: u32) -> Result<(), InterruptError> {
        debug!(gsi, "KVM_IRQFD deassign");
        self.vm
            .unregister_irqfd(event, gsi)
            .map_err(|source| InterruptError::Irqfd { gsi, source })
    }

    /// How many GSIs carry a message now.
    pub fn in_use(&self) -> usize {
        self.lock().messages.len()
    }
}

fn ioapic_entry(gsi: u32) -> kvm_irq_routing_entry {
    pin_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi)
}

fn pic_entry(gsi: u32) -> kvm_irq_routing_entry {
    match gsi.checked_sub(PIC_PINS / 2) {
        None => pin_entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        Some(pin) => pin_entry(gsi, KVM_IRQCHIP_PIC_SLAVE, pin),
    }
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi_entry(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}
