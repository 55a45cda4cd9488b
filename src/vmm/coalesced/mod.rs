//! Writes that need no exit of their own: KVM keeps them in a ring until something else ends
//! KVM_RUN (api.rst, 4.116 KVM_(UN)REGISTER_COALESCED_MMIO).
//!
//! A write may wait if its device does nothing before the next access to it. That holds for these
//! writes, which a guest makes often:
//!
//! | where | what | next access, an exit |
//! | --- | --- | --- |
//! | port 0xcf8 | the address of configuration mechanism 1 | to 0xcfc |
//! | port 0x3f8 | the UART's transmitter holding register | a read of its status |
//! | ports 0x3fa to 0x3fc | the UART's FIFO, line and modem control | a read of a register |
//! | ports 0x2e8 to 0x3f7 | nothing: a guest looks for COM2 to COM4 | none |
//! | memory | unused MSI-X table entries ([`CoalescedZones`]) | of the table or the capability |
//!
//! The UART's interrupt enable register must not wait: a write there raises what is pending. None
//! of the other registers raises an interrupt here.
//!
//! A guest cannot tell the difference: the ring is emptied before anything else that an exit asks
//! for, in the order of the writes, whichever vCPU made them ([`Coalesced::apply`]). Port 0x3f8 is
//! the divisor latch while DLAB is set; the order alone makes that right. For a guest that writes
//! characters and then makes no exit, a thread beside the vCPUs empties the ring. While the ring is
//! full, a write is an exit again. The thread that empties the ring may have to wait for a standard
//! output that is full; vCPUs with an exit then wait too, until the VM is stopped.
//!
//! A string instruction that needs more room than the ring has left loses the rest, in KVM itself;
//! on kernels before about 5.17 the instruction is repeated from its start. On a real 16550 the
//! same guest would lose all but sixteen characters.

mod ring;
pub mod zones;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Cap, IoEventAddress, VmFd};

use crate::bus::Bus;
use crate::coalesced::ring::CoalescedRing;
use crate::coalesced::zones::CoalescedZones;
use crate::devices::serial::Serial;
use crate::layout::{PORT_PCI_ADDRESS, PORT_SERIAL};

/// Where a guest looks for COM4, the first of the legacy serial ports. From there to COM1 there is
/// nothing: BARs begin further up.
const PORT_COM4: u16 = 0x2e8;
/// The UART's registers of FIFO, line and modem control.
const UART_CONTROLS: (u16, u16) = (PORT_SERIAL + 2, PORT_SERIAL + 4);

/// First and last port of each zone. They are few, because KVM may wait for a grace period with
/// each.
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
    ring: Option<CoalescedRing>,
    /// Held while the ring is emptied, which one thread at a time does.
    apply_lock: Mutex<()>,
    bus: Arc<Bus>,
    serial: Arc<Serial>,
    /// Characters were written, and the UART's interrupt has not followed yet.
    serial_written: Arc<AtomicBool>,
    applied: AtomicU64,
}

impl Coalesced {
    /// Makes KVM keep writes to the ports. `vcpu` is any of the VM's. Without the capability
    /// (Linux 5.0) or the ring, every write is an exit.
    pub fn new(vm: &VmFd, vcpu: Option<&impl AsRawFd>, bus: Arc<Bus>, serial: Arc<Serial>) -> Self {
        Self {
            ring: vcpu.and_then(|vcpu| ring(vm, vcpu)),
            apply_lock: Mutex::new(()),
            bus,
            serial_written: serial.interrupt_due(),
            serial,
            applied: AtomicU64::new(0),
        }
    }

    /// The zones of a VM whose writes this ring takes.
    pub fn zones(&self, vm: &Arc<VmFd>) -> CoalescedZones {
        CoalescedZones::new(self.ring.as_ref().map(|_| Arc::clone(vm)))
    }

    /// How many writes needed no exit.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Carries out the writes in the ring: to be called before anything else that an exit asks for.
    /// Returns whether there were any.
    ///
    /// A vCPU's own writes are in the ring before its exit, and leave the ring after they have been
    /// carried out; so an empty ring needs no lock.
    pub fn apply(&self) -> bool {
        let Some(ring) = self.ring.as_ref().filter(|ring| !ring.is_empty()) else {
            return false;
        };
        let _guard = self
            .apply_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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

    /// To be called after an exit: raises the UART's interrupt if the writes or the exit itself
    /// have caused one. The exit may have unregistered a zone; writes that came before that are
    /// carried out too, so that none is late.
    pub fn finish_exit(&self) {
        self.apply();
        if self.serial_written.load(Ordering::Acquire) {
            self.serial.update_interrupt();
        }
    }

    /// Says whether the VM is being stopped: then a full output loses what is written.
    pub fn set_stopping(&self, stopping: bool) {
        self.serial.set_stopping(stopping);
    }

    /// Empties the ring for a guest that makes no exits, and a last time when no vCPU runs any
    /// more. To end this thread is to set `ended` and to unpark the thread. A driver that reads its
    /// UART does not need the thread, as each read is an exit.
    pub fn serve(&self, ended: &AtomicBool) {
        let mut pause = IDLE;
        while !ended.load(Ordering::Acquire) {
            thread::park_timeout(pause);
            pause = if self.apply() { BUSY } else { IDLE };
            self.finish_exit();
        }
        self.apply();
    }
}

fn ring(vm: &VmFd, vcpu: &impl AsRawFd) -> Option<CoalescedRing> {
    let page = u32::try_from(vm.check_extension_int(Cap::CoalescedMmio)).ok()?;
    if page == 0 || !vm.check_extension(Cap::CoalescedPio) {
        return None;
    }
    let ring = CoalescedRing::map(vcpu, page).ok()?;
    for (first, last) in ZONES {
        // A write that KVM does not keep is an exit, which works as well.
        let size = u32::from(last - first) + 1;
        let _ = vm.register_coalesced_mmio(IoEventAddress::Pio(first.into()), size);
    }
    Some(ring)
}
