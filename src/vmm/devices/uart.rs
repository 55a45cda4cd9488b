//! vm-superio's 16550, with the interrupt output of a real one.
//!
//! In the data sheet an interrupt is a level: high while a cause is pending and enabled, and
//! IIR shows just such causes. vm-superio signals at each new cause and shows disabled ones too,
//! for which Linux's driver makes another round through its handler for every line of text. So the
//! level is made here, and the interrupt is its rise, as an edge-triggered input of the IOAPIC has it.

use std::io;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Transmitter holding register when written, receiver buffer when read.
pub const DATA: u8 = 0;
/// Interrupt enable register.
pub const IER: u8 = 1;
const IIR: u8 = 2;
/// Line control register.
pub const LCR: u8 = 3;
/// Modem control register.
pub const MCR: u8 = 4;
/// Line status register.
pub const LSR: u8 = 5;
/// Line status: a character was received.
pub const LSR_DATA_READY: u8 = 1 << 0;

const IER_RECEIVER: u8 = 1 << 0;
const IER_TRANSMITTER: u8 = 1 << 1;
const IIR_NONE: u8 = 1 << 0;
const IIR_TRANSMITTER: u8 = 1 << 1;
const IIR_RECEIVER: u8 = 1 << 2;

/// Takes no notice of vm-superio's signals.
struct Never;

impl Trigger for Never {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A 16550.
pub struct Uart<E: SerialEvents, W: io::Write> {
    inner: Serial<Never, E, W>,
    interrupt: EventFd,
    /// The interrupt output as it was last looked at.
    high: bool,
}

impl<E: SerialEvents, W: io::Write> Uart<E, W> {
    /// After power-on; a rise of the interrupt output is written to `interrupt`.
    pub fn new(interrupt: EventFd, events: E, output: W) -> Self {
        Self {
            inner: Serial::with_events(Never, events, output),
            interrupt,
            high: false,
        }
    }

    /// Reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        if register != IIR {
            return self.inner.read(register);
        }
        let disabled = !self.enabled();
        match self.inner.read(IIR) & !disabled {
            iir if iir & (IIR_TRANSMITTER | IIR_RECEIVER) == 0 => iir | IIR_NONE,
            iir => iir,
        }
    }

    /// Writes a register. An output that is closed loses the guest's words, not the guest.
    pub fn write(&mut self, register: u8, value: u8) {
        let _ = self.inner.write(register, value);
    }

    /// Receives characters; returns how many there was room for. In loopback mode none.
    pub fn receive(&mut self, data: &[u8]) -> usize {
        let room = self.inner.fifo_capacity().min(data.len());
        data.get(..room)
            .map_or(0, |data| self.inner.enqueue_raw_bytes(data).unwrap_or(0))
    }

    /// Looks at the interrupt output, and raises the interrupt if it has risen.
    pub fn settle(&mut self) {
        let pending = self.inner.state().interrupt_identification;
        let high = pending & self.enabled() & (IIR_TRANSMITTER | IIR_RECEIVER) != 0;
        if high && !self.high {
            // A counter that cannot overflow: KVM empties it.
            let _ = self.interrupt.write(1);
        }
        self.high = high;
    }

    /// The bits of IIR that may be shown: all but those of disabled causes.
    fn enabled(&self) -> u8 {
        let ier = self.inner.state().interrupt_enable;
        let mut bits = !(IIR_TRANSMITTER | IIR_RECEIVER);
        if ier & IER_TRANSMITTER != 0 {
            bits |= IIR_TRANSMITTER;
        }
        if ier & IER_RECEIVER != 0 {
            bits |= IIR_RECEIVER;
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use vm_superio::serial::NoEvents;

    use super::*;

    fn uart() -> (Uart<NoEvents, Vec<u8>>, EventFd) {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let uart = Uart::new(event.try_clone().unwrap(), NoEvents, Vec::new());
        (uart, event)
    }

    /// A disabled cause is neither shown nor signalled, and enabling it signals it.
    #[test]
    fn an_interrupt_is_what_is_pending_and_enabled() {
        let (mut u, event) = uart();
        u.write(IER, IER_TRANSMITTER);
        u.write(IER, 0);
        u.settle();
        assert!(event.read().is_err());
        assert_eq!(u.read(IIR), 0xc1);
        u.write(IER, IER_TRANSMITTER);
        u.write(DATA, b'x');
        u.write(IER, 0);
        u.settle();
        assert!(event.read().is_err());
        u.write(IER, IER_TRANSMITTER);
        u.settle();
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!(u.read(IIR), 0xc2);
        assert_eq!(u.read(IIR), 0xc1);
    }

    /// Many characters are one rise; after it was seen and fell, the next is another.
    #[test]
    fn a_level_rises_once() {
        let (mut u, event) = uart();
        u.write(IER, IER_TRANSMITTER);
        for round in 0..3 {
            for _ in 0..16 {
                u.write(DATA, b'x');
                u.settle();
            }
            assert_eq!(event.read().unwrap(), 1, "round {round}");
            assert_eq!(u.read(IIR), 0xc2);
            u.settle();
        }
        assert!(event.read().is_err());
    }

    /// Characters that came while the cause was disabled are signalled when it is enabled again.
    #[test]
    fn what_was_received_meanwhile_is_told() {
        let (mut u, event) = uart();
        assert_eq!(u.receive(b"ab"), 2);
        u.settle();
        assert!(event.read().is_err());
        assert_eq!(u.read(LSR) & LSR_DATA_READY, 1);
        u.write(IER, IER_RECEIVER);
        u.settle();
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!(u.read(IIR), 0xc4);
        assert_eq!((u.read(DATA), u.read(DATA)), (b'a', b'b'));
        assert_eq!(u.receive(&[0; 100]), 64);
    }
}
