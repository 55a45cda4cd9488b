//! Coalesced writes: KVM keeps a guest's writes to some ports and addresses in a ring, instead of
//! an exit for each, until another exit ends KVM_RUN (api.rst, 4.116
//! KVM_(UN)REGISTER_COALESCED_MMIO).
//!
//! A write may wait if its effect cannot be observed before the device's next access. This is true
//! of the following writes, which guests make often:
//!
//! | where | what | next access, which is an exit |
//! | --- | --- | --- |
//! | port 0xcf8 | the address of configuration mechanism 1 | to 0xcfc |
//! | port 0x3f8 | the UART's transmitter holding register | a read of its status |
//! | ports 0x3fa to 0x3fc | the UART's FIFO, line and modem control | a read of a register |
//! | ports 0x2e8 to 0x3f7 | no device: a guest looks for COM2 to COM4 | none |
//! | memory | unused MSI-X table entries ([`CoalescedZones`]) | of the table or the capability |
//!
//! Writes to the UART's interrupt enable register must not wait, because such a write may raise a
//! pending interrupt. A write to another register raises no interrupt.
//!
//! A guest cannot tell the difference: before an exit is handled, the ring's writes are carried out
//! in their order, whichever vCPU made them ([`Coalesced::apply`]). The order also keeps port 0x3f8
//! right, which is the divisor latch while DLAB is set. For a guest that writes characters and then
//! makes no exit, a thread of its own empties the ring. While the ring is full, a write is an exit
//! again.
//!
//! A string instruction that does not fit into the ring loses its remaining characters, in KVM
//! itself. On kernels before about 5.17 the instruction is repeated from its start. On a real 16550
//! the same guest would lose all but sixteen characters.

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
use crate::log::degraded::{self, Code};

/// The first port of COM4, the lowest of the legacy serial ports. Between COM4 and COM1 the machine
/// has no device; BARs begin further up.
const PORT_COM4: u16 = 0x2e8;
/// The UART's registers of FIFO, line and modem control.
const UART_CONTROLS: (u16, u16) = (PORT_SERIAL + 2, PORT_SERIAL + 4);

/// First and last port of each zone. There are few zones, because KVM may wait for a grace period
/// for each.
const ZONES: [(u16, u16); 3] = [
    (PORT_PCI_ADDRESS, PORT_PCI_ADDRESS + 3),
    (PORT_COM4, PORT_SERIAL),
    UART_CONTROLS,
];

/// The longest time that a character waits if the guest makes no exit.
const IDLE: Duration = Duration::from_millis(100);
/// The same while characters arrive: sixteen characters a millisecond are more than any serial line
/// carries.
const BUSY: Duration = Duration::from_millis(1);

/// The coalesced writes of a VM, and the devices that they go to.
pub struct Coalesced {
    ring: Option<CoalescedRing>,
    /// Held while the ring is emptied: one thread at a time may do so.
    apply_lock: Mutex<()>,
    bus: Arc<Bus>,
    serial: Arc<Serial>,
    /// Whether characters were written since the UART's interrupt was last updated.
    interrupt_due: Arc<AtomicBool>,
    applied: AtomicU64,
}

impl Coalesced {
    /// Makes KVM coalesce writes to the ports. `vcpu` is any vCPU of the VM. Without the capability
    /// (Linux 5.0) or the ring, every write is an exit.
    pub fn new(vm: &VmFd, vcpu: Option<&impl AsRawFd>, bus: Arc<Bus>, serial: Arc<Serial>) -> Self {
        Self {
            ring: vcpu.and_then(|vcpu| ring(vm, vcpu)),
            apply_lock: Mutex::new(()),
            bus,
            interrupt_due: serial.interrupt_due(),
            serial,
            applied: AtomicU64::new(0),
        }
    }

    /// Makes the zones in guest-physical memory. Their writes go to this ring.
    pub fn zones(&self, vm: &Arc<VmFd>) -> CoalescedZones {
        CoalescedZones::new(self.ring.as_ref().map(|_| Arc::clone(vm)))
    }

    /// The number of writes that needed no exit.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Carries out the writes in the ring. To be called before an exit is handled. Returns whether
    /// the ring had writes.
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
        // The number of writes is read once: other vCPUs may never stop adding more.
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
    /// have caused one. The exit may have unregistered a zone, so the zone's earlier writes are
    /// carried out first.
    pub fn finish_exit(&self) {
        self.apply();
        if self.interrupt_due.load(Ordering::Acquire) {
            self.serial.update_interrupt();
        }
    }

    /// The body of the thread that empties the ring for a guest that makes no exits, and a last
    /// time when all vCPUs have stopped. To end the thread, set `ended` and unpark the thread. A
    /// driver that reads its UART does not need the thread, because each read is an exit.
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
    let page = vm.check_extension_int(Cap::CoalescedMmio);
    let has_ports = vm.check_extension(Cap::CoalescedPio);
    let page = usable(page, has_ports)
        .inspect_err(|why| tell_without(why))
        .ok()?;
    let map = CoalescedRing::map(vcpu, page);
    let ring = map.inspect_err(|e| tell_without(&e.to_string())).ok()?;
    for (first, last) in ZONES {
        let size = u32::from(last - first) + 1;
        if let Err(e) = vm.register_coalesced_mmio(IoEventAddress::Pio(first.into()), size) {
            tell_without(&format!("KVM_REGISTER_COALESCED_MMIO: {e}"));
        }
    }
    Some(ring)
}

/// The page of a vCPU's mapping that has the ring (KVM_CAP_COALESCED_MMIO), if KVM coalesces writes
/// to ports too.
fn usable(page: i32, has_ports: bool) -> Result<u32, &'static str> {
    match u32::try_from(page) {
        Ok(0) | Err(_) => Err("KVM lacks KVM_CAP_COALESCED_MMIO"),
        Ok(_) if !has_ports => Err("KVM lacks KVM_CAP_COALESCED_PIO"),
        Ok(page) => Ok(page),
    }
}

fn tell_without(why: &str) {
    let what = "each write to the serial port is an exit of its own";
    let loss = Code::NoCoalescedWrites.loss(what, why);
    degraded::tell(loss.hint("run Linux 5.0 or newer on the host"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_ring_is_told() {
        assert_eq!(usable(2, true), Ok(2));
        for (page, ports, lacks) in [
            (0, true, "KVM_CAP_COALESCED_MMIO"),
            (-1, true, "KVM_CAP_COALESCED_MMIO"),
            (2, false, "KVM_CAP_COALESCED_PIO"),
        ] {
            let why = usable(page, ports).unwrap_err();
            assert!(why.ends_with(lacks), "{why}");
            tell_without(why);
        }
        let codes = degraded::list().into_iter().map(|loss| loss.code);
        assert_eq!(codes.filter(|c| *c == Code::NoCoalescedWrites).count(), 1);
    }
}
