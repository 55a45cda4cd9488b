//! Writes that need no exit of their own: KVM keeps them in a ring until something else ends
//! KVM_RUN (api.rst, 4.116 KVM_(UN)REGISTER_COALESCED_MMIO).
//!
//! A write may wait if its device does nothing before the next access to it. That holds for these,
//! which a guest writes often:
//!
//! | where | what | who comes next |
//! | --- | --- | --- |
//! | port 0xcf8 | the address of configuration mechanism 1 | the access to 0xcfc, an exit |
//! | port 0x3f8 | the UART's transmitter holding register | a look at the line status or the interrupt's identification, an exit |
//! | ports 0x3fa to 0x3fc | its FIFO, line and modem control, of which none raises an interrupt here | a look at any register, an exit |
//! | ports 0x2e8 to 0x3f7 | nothing: a guest looks for COM2 to COM4 | nobody |
//! | memory | entries of an MSI-X table that are not in use ([`Zones`]) | a look at the table, or at the capability, an exit |
//!
//! The UART's register of enabled interrupts must not wait: it raises what is pending.
//!
//! So that nobody can tell: the ring is emptied before anything else that an exit asks for, in
//! the order of the writes, whoever made them ([`Coalesced::apply`]). The same port is the divisor
//! latch while DLAB is set; order alone makes that right. A guest that writes characters and then
//! does nothing at all is served by a thread beside the vCPUs. A full ring makes a write an exit again.
//! The one who empties the ring may have to wait for a standard output that is full; vCPUs with an
//! exit to make then wait with it, until the VM is stopped.
//!
//! A string instruction that is longer than what room the ring has left loses the rest, in KVM itself, or
//! is repeated from its start by kernels of before about 5.17; on a real 16550 the same guest would lose all
//! but sixteen characters.

mod ring;
pub mod zones;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Cap, IoEventAddress, VmFd};

use crate::bus::Bus;
use crate::coalesced::ring::Ring;
use crate::coalesced::zones::Zones;
use crate::devices::serial::Serial;
use crate::layout::{PORT_PCI_ADDRESS, PORT_SERIAL};

/// Where a guest looks for COM4, the first of the legacy serial ports. From there to COM1 there is
/// nothing: BARs begin further up.
const PORT_COM4: u16 = 0x2e8;
/// The UART's registers of FIFO, line and modem control.
const UART_CONTROLS: (u16, u16) = (PORT_SERIAL + 2, PORT_SERIAL + 4);

/// First and last port of each zone. They are few, because KVM may wait for a grace period with each.
const ZONES: [(u16, u16); 3] = [
    (PORT_PCI_ADDRESS, PORT_PCI_ADDRESS + 3),
    (PORT_COM4, PORT_SERIAL),
    UART_CONTROLS,
];

/// How long a character waits at most in a guest that makes no exit.
const IDLE: Duration = Duration::from_millis(100);
/// The same while characters come: a FIFO of sixteen a millisecond is more than any line carries.
const BUSY: Duration = Duration::from_millis(1);

/// The writes of a VM that KVM keeps, and where they go.
pub struct Coalesced {
    ring: Option<Ring>,
    /// Who empties the ring.
    turn: Mutex<()>,
    bus: Arc<Bus>,
    serial: Arc<Serial>,
    applied: AtomicU64,
}

impl Coalesced {
    /// Has KVM keep writes to the ports. `vcpu` is any of the VM's. Without the capability
    /// (Linux 5.0) or the ring, every write is an exit.
    pub fn new(vm: &VmFd, vcpu: Option<&impl AsRawFd>, bus: Arc<Bus>, serial: Arc<Serial>) -> Self {
        Self {
            ring: vcpu.and_then(|vcpu| ring(vm, vcpu)),
            turn: Mutex::new(()),
            bus,
            serial,
            applied: AtomicU64::new(0),
        }
    }

    /// The zones of a VM whose writes this ring takes.
    pub fn zones(&self, vm: &Arc<VmFd>) -> Zones {
        Zones::new(self.ring.as_ref().map(|_| Arc::clone(vm)))
    }

    /// How many writes needed no exit.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Does what has been written: to be called before anything else that an exit asks for. Tells
    /// whether there was anything.
    ///
    /// A vCPU's own writes are in the ring before its exit, and leave it when they are done; so an
    /// empty ring needs no lock.
    pub fn apply(&self) -> bool {
        let Some(ring) = self.ring.as_ref().filter(|ring| !ring.is_empty()) else {
            return false;
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // What is there now, and not what other vCPUs add meanwhile: they may never stop.
        for _ in 0..ring.len() {
            let Some(write) = ring.front() else {
                break;
            };
            match (write.port, u16::try_from(write.address)) {
                (false, _) => self.bus.mmio_write(write.address, write.data()),
                (true, Ok(port)) => self.bus.pio_write(port, write.data()),
                (true, Err(_)) => {}
            }
            ring.pop();
            self.applied.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// To be called after an exit: raises the interrupt that the writes and the exit itself have
    /// caused. Writes to a zone that the exit has taken away may have come before it was gone, and
    /// nobody is to find them late.
    pub fn settle(&self) {
        self.apply();
        self.serial.update_interrupt();
    }

    /// Whether the VM is being stopped: then an output that is full loses what is written to it.
    pub fn set_stopping(&self, stopping: bool) {
        self.serial.set_stopping(stopping);
    }

    /// Empties the ring in a guest that makes no exits, and a last time when no vCPU runs any more;
    /// whoever sets `ended` must unpark the thread. No driver that looks at its UART needs this, as each
    /// look is an exit.
    pub fn serve(&self, ended: &AtomicBool) {
        let mut pause = IDLE;
        while !ended.load(Ordering::Acquire) {
            thread::park_timeout(pause);
            pause = if self.apply() { BUSY } else { IDLE };
            self.settle();
        }
        self.apply();
    }
}

fn ring(vm: &VmFd, vcpu: &impl AsRawFd) -> Option<Ring> {
    let page = u32::try_from(vm.check_extension_int(Cap::CoalescedMmio)).ok()?;
    if page == 0 || !vm.check_extension(Cap::CoalescedPio) {
        return None;
    }
    let ring = Ring::map(vcpu, page).ok()?;
    for (first, last) in ZONES {
        // What cannot be kept is an exit, which is as good.
        let size = u32::from(last - first) + 1;
        let _ = vm.register_coalesced_mmio(IoEventAddress::Pio(first.into()), size);
    }
    Some(ring)
}
