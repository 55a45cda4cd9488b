//! vm-superio's 16550, with the interrupt output of a real one.
//!
//! By the data sheet the interrupt output is a level, which is high while a cause is pending and
//! enabled, and IIR shows only enabled causes. vm-superio signals each new cause and shows disabled
//! causes as well, so that the handler of Linux's driver runs once too often for every line of
//! text. This file computes the level and raises an interrupt when the level rises, as an
//! edge-triggered input of the IOAPIC does.
//!
//! The transmitter is busy while its output takes no characters. vm-superio's is never busy.

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
/// Line status: the holding register is empty, and so is the shift register.
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;

const IER_RECEIVER: u8 = 1 << 0;
const IER_TRANSMITTER: u8 = 1 << 1;
const IIR_NONE: u8 = 1 << 0;
const IIR_TRANSMITTER: u8 = 1 << 1;
const IIR_RECEIVER: u8 = 1 << 2;

/// An output that takes characters one after the other.
pub trait Transmitter: io::Write {
    /// Whether a driver must wait before it writes more characters.
    fn is_busy(&self) -> bool;
}

/// Ignores vm-superio's own signals.
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A 16550.
pub struct Uart<E: SerialEvents, W: Transmitter> {
    inner: Serial<NoTrigger, E, W>,
    interrupt: EventFd,
    /// The level of the interrupt output at the last [`Uart::update_interrupt`].
    high: bool,
    /// The transmitter was busy and is not any more, and the guest has not seen the cause yet.
    emptied: bool,
}

impl<E: SerialEvents, W: Transmitter> Uart<E, W> {
    /// A UART after power-on. A rise of the interrupt output is written to `interrupt`.
    pub fn new(interrupt: EventFd, events: E, output: W) -> Self {
        Self {
            inner: Serial::with_events(NoTrigger, events, output),
            interrupt,
            high: false,
            emptied: false,
        }
    }

    /// Reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        match register {
            IIR => self.read_identification(),
            LSR if self.is_busy() => self.inner.read(LSR) & !LSR_TRANSMITTER_EMPTY,
            _ => self.inner.read(register),
        }
    }

    /// Reads IIR, which clears the cause of the transmitter. While the transmitter is busy, the
    /// cause is kept for later.
    fn read_identification(&mut self) -> u8 {
        let disabled = !self.enabled();
        let mut iir = self.inner.read(IIR);
        if self.is_busy() {
            self.emptied |= iir & IIR_TRANSMITTER != 0;
            iir &= !IIR_TRANSMITTER;
        } else if std::mem::take(&mut self.emptied) {
            iir = (iir | IIR_TRANSMITTER) & !IIR_NONE;
        }
        match iir & !disabled {
            iir if iir & (IIR_TRANSMITTER | IIR_RECEIVER) == 0 => iir | IIR_NONE,
            iir => iir,
        }
    }

    fn is_busy(&self) -> bool {
        self.inner.writer().is_busy()
    }

    /// The transmitter is no longer busy, which is a cause of an interrupt.
    pub fn set_transmitter_empty(&mut self) {
        self.emptied = true;
        self.update_interrupt();
    }

    /// Writes a register. If the output is closed, the character is lost and the guest goes on.
    pub fn write(&mut self, register: u8, value: u8) {
        let _ = self.inner.write(register, value);
    }

    /// Receives characters; returns how many fitted into the buffer. In loopback mode the number is
    /// 0.
    pub fn receive(&mut self, data: &[u8]) -> usize {
        let count = self.inner.fifo_capacity().min(data.len());
        data.get(..count)
            .map_or(0, |data| self.inner.enqueue_raw_bytes(data).unwrap_or(0))
    }

    /// Computes the level of the interrupt output, and raises the interrupt if the level has risen.
    pub fn update_interrupt(&mut self) {
        let mut pending = self.inner.state().interrupt_identification;
        if self.is_busy() {
            pending &= !IIR_TRANSMITTER;
        } else if self.emptied {
            pending |= IIR_TRANSMITTER;
        }
        let high = pending & self.enabled() & (IIR_TRANSMITTER | IIR_RECEIVER) != 0;
        if high && !self.high {
            // The counter cannot overflow, because KVM resets it.
            let _ = self.interrupt.write(1);
        }
        self.high = high;
    }

    /// The bits of IIR that the guest may read: all except those of disabled causes.
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
    use std::cell::Cell;
    use std::rc::Rc;

    use vm_superio::serial::NoEvents;

    use super::*;

    /// An output that is busy when the test says so.
    #[derive(Clone, Default)]
    struct Line(Rc<Cell<bool>>);

    impl io::Write for Line {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Transmitter for Line {
        fn is_busy(&self) -> bool {
            self.0.get()
        }
    }

    fn uart() -> (Uart<NoEvents, Line>, EventFd) {
        let (uart, event, _) = uart_on_a_line();
        (uart, event)
    }

    fn uart_on_a_line() -> (Uart<NoEvents, Line>, EventFd, Rc<Cell<bool>>) {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let line = Line::default();
        let busy = Rc::clone(&line.0);
        let uart = Uart::new(event.try_clone().unwrap(), NoEvents, line);
        (uart, event, busy)
    }

    /// While the line is busy, the transmitter is neither empty nor a cause of an interrupt. When
    /// the line is idle again, the driver that waits for the interrupt gets one.
    #[test]
    fn a_busy_line_holds_the_driver_up() {
        let (mut u, event, busy) = uart_on_a_line();
        assert_eq!(u.read(LSR), 0x60);
        u.write(IER, IER_TRANSMITTER);
        u.update_interrupt();
        assert_eq!((event.read().unwrap(), u.read(IIR)), (1, 0xc2));
        busy.set(true);
        u.write(DATA, b'x');
        u.update_interrupt();
        assert!(event.read().is_err());
        assert_eq!((u.read(LSR), u.read(IIR)), (0, 0xc1));
        // A driver that enables the interrupt meanwhile waits too, and input still comes.
        u.write(IER, IER_TRANSMITTER | IER_RECEIVER);
        assert_eq!(u.receive(b"a"), 1);
        u.update_interrupt();
        assert_eq!((event.read().unwrap(), u.read(LSR)), (1, 1));
        assert_eq!((u.read(IIR), u.read(DATA)), (0xc4, b'a'));
        u.update_interrupt();
        busy.set(false);
        u.set_transmitter_empty();
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!((u.read(LSR), u.read(IIR), u.read(IIR)), (0x60, 0xc2, 0xc1));
    }

    /// A disabled cause is neither shown nor signalled, and enabling it signals it.
    #[test]
    fn an_interrupt_is_what_is_pending_and_enabled() {
        let (mut u, event) = uart();
        u.write(IER, IER_TRANSMITTER);
        u.write(IER, 0);
        u.update_interrupt();
        assert!(event.read().is_err());
        assert_eq!(u.read(IIR), 0xc1);
        u.write(IER, IER_TRANSMITTER);
        u.write(DATA, b'x');
        u.write(IER, 0);
        u.update_interrupt();
        assert!(event.read().is_err());
        u.write(IER, IER_TRANSMITTER);
        u.update_interrupt();
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
                u.update_interrupt();
            }
            assert_eq!(event.read().unwrap(), 1, "round {round}");
            assert_eq!(u.read(IIR), 0xc2);
            u.update_interrupt();
        }
        assert!(event.read().is_err());
    }

    /// Characters that came while the cause was disabled are signalled when it is enabled again.
    #[test]
    fn what_was_received_meanwhile_is_told() {
        let (mut u, event) = uart();
        assert_eq!(u.receive(b"ab"), 2);
        u.update_interrupt();
        assert!(event.read().is_err());
        assert_eq!(u.read(LSR) & LSR_DATA_READY, 1);
        u.write(IER, IER_RECEIVER);
        u.update_interrupt();
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!(u.read(IIR), 0xc4);
        assert_eq!((u.read(DATA), u.read(DATA)), (b'a', b'b'));
        assert_eq!(u.receive(&[0; 100]), 64);
    }
}
