//! GSIs and the routing table: maps each GSI to a pin or message, and eventfds to GSIs.
//!
//! KVM's GSIs 0 to 23 are the IOAPIC's pins, and the first 16 lead to the PIC as well. Every
//! message-signalled interrupt gets a GSI above them, whose route holds the message
//! (Documentation/virt/kvm/api.rst, 4.52 KVM_SET_GSI_ROUTING). Each call replaces the whole table
//! and waits for a grace period of some milliseconds, so changes are collected and committed
//! together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{Cap, VmFd};
use pci::Message;
use tracing::{debug, trace};
use vm_allocator::IdAllocator;
use vmm_sys_util::eventfd::EventFd;

use crate::gsi::error::GsiError;
use crate::gsi::memory_messages::MemoryMessages;
use crate::layout::IOAPIC_PINS;

/// Pins of the two 8259A together. They are masked from power-on ([`crate::gsi::irqchip`]), and
/// Linux leaves them masked.
const PIC_PINS: u32 = 16;

/// The routing table and the GSIs in it.
pub struct GsiRouting {
    vm: Arc<VmFd>,
    memory: Arc<MemoryMessages>,
    state: Mutex<State>,
}

struct State {
    gsis: IdAllocator,
    /// The GSIs that are taken, with their messages.
    messages: BTreeMap<u32, Option<Message>>,
    /// Whether KVM's table differs from `messages`. The route of a GSI without a message does not
    /// count, because nothing raises that GSI.
    dirty: bool,
}

impl GsiRouting {
    /// Starts with the table that KVM_CREATE_IRQCHIP has made (api.rst, 4.24): the pins of IOAPIC
    /// and PIC. The table is not sent to KVM again, because that would cost a grace period before
    /// the guest's first instruction. Messages that are no interrupts go to `memory`.
    ///
    /// # Errors
    /// [`GsiError::NoGsi`] if KVM has no GSI above the pins.
    pub fn new(vm: Arc<VmFd>, memory: Arc<MemoryMessages>) -> Result<Arc<Self>, GsiError> {
        let routes = u32::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        // The table holds `routes` entries, including those of the pins.
        let last = routes.max(PIC_PINS + IOAPIC_PINS + 1) - PIC_PINS - 1;
        let gsis = IdAllocator::new(IOAPIC_PINS, last).map_err(|_| GsiError::NoGsi)?;
        let state = State {
            gsis,
            messages: BTreeMap::new(),
            dirty: false,
        };
        Ok(Arc::new(Self {
            vm,
            memory,
            state: Mutex::new(state),
        }))
    }

    /// KVM's VM.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Where messages go that are no interrupts.
    pub fn memory(&self) -> &Arc<MemoryMessages> {
        &self.memory
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a GSI for a message-signalled interrupt.
    ///
    /// # Errors
    /// [`GsiError::NoGsi`].
    pub fn allocate(&self) -> Result<u32, GsiError> {
        let mut state = self.lock();
        let gsi = state.gsis.allocate_id().map_err(|_| GsiError::NoGsi)?;
        state.messages.insert(gsi, None);
        Ok(gsi)
    }

    /// Frees a GSI. Its irqfd must have been deassigned, so that nothing raises the GSI before the
    /// next commit removes the route from the table.
    pub fn free(&self, gsi: u32) {
        let mut state = self.lock();
        state.messages.remove(&gsi);
        // The only possible error is a GSI that is already free.
        let _ = state.gsis.free_id(gsi);
    }

    /// Sets the interrupt that a GSI sends, or none, from the next [`GsiRouting::commit`] on.
    /// Without one, no irqfd may be assigned.
    pub fn route(&self, gsi: u32, message: Option<Message>) {
        let mut state = self.lock();
        let before = state.messages.insert(gsi, message);
        if message.is_some() && before != Some(message) {
            state.dirty = true;
        }
    }

    /// Hands the table to KVM if a route has changed.
    ///
    /// # Errors
    /// KVM refuses the table; the old table stays in force.
    pub fn commit(&self) -> Result<(), GsiError> {
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
            .filter_map(|(gsi, message)| Some(msi_entry(*gsi, (*message)?)));
        let entries: Vec<_> = pins.chain(messages).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| GsiError::TooMany)?;
        debug!(entries = entries.len(), "KVM_SET_GSI_ROUTING");
        self.vm.set_gsi_routing(&table).map_err(GsiError::Routing)?;
        state.dirty = false;
        Ok(())
    }

    /// Makes KVM raise `gsi` when `event` is signalled.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD.
    pub fn assign_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), GsiError> {
        debug!(gsi, "KVM_IRQFD assign");
        self.vm
            .register_irqfd(event, gsi)
            .map_err(|source| GsiError::Irqfd { gsi, source })
    }

    /// Makes KVM raise `gsi` as a level when `trigger` is signalled. When the guest acknowledges
    /// the interrupt (EOI), KVM lowers the level and signals `resample` (api.rst, 4.75
    /// KVM_IRQFD_FLAG_RESAMPLE).
    ///
    /// # Errors
    /// The errno of KVM_IRQFD.
    pub fn assign_level_irqfd(
        &self,
        trigger: &EventFd,
        resample: &EventFd,
        gsi: u32,
    ) -> Result<(), GsiError> {
        debug!(gsi, "KVM_IRQFD assign, resample");
        self.vm
            .register_irqfd_with_resample(trigger, resample, gsi)
            .map_err(|source| GsiError::Irqfd { gsi, source })
    }

    /// Raises `gsi`, whose route is a message: KVM sends the message once (api.rst, 4.25
    /// KVM_IRQ_LINE). KVM drops a message that no processor takes, as with an irqfd.
    pub fn raise(&self, gsi: u32) {
        let outcome = self.vm.set_irq_line(gsi, true);
        trace!(gsi, ?outcome, "KVM_IRQ_LINE");
    }

    /// Undoes [`GsiRouting::assign_irqfd`] or [`GsiRouting::assign_level_irqfd`]. KVM has delivered
    /// all earlier events when the call returns.
    ///
    /// # Errors
    /// The errno of KVM_IRQFD.
    pub fn deassign_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), GsiError> {
        debug!(gsi, "KVM_IRQFD deassign");
        self.vm
            .unregister_irqfd(event, gsi)
            .map_err(|source| GsiError::Irqfd { gsi, source })
    }

    /// The number of GSIs that are taken.
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
