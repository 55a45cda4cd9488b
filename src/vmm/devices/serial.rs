//! COM1: connects the guest's ports, through vm-superio's 16550, to this program's standard
//! streams.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::uart::{DATA, IER, LCR, LSR, LSR_DATA_READY, MCR, Uart};

/// The number of ports of a 16550.
pub const PORTS: u16 = 8;

/// The receiver of the guest's characters.
pub type Output = Box<dyn Write + Send>;

/// Tells the main loop that the guest has emptied the receive buffer.
struct BufferEmpty(EventFd);

impl SerialEvents for BufferEmpty {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // The write fails only if the counter is at its maximum. The loop wakes all the same.
        let _ = self.0.write(1);
    }
}

/// An output that drops blocked writes while the VM is being stopped. So an output without a reader
/// cannot keep the VM from stopping.
struct Stoppable {
    output: Output,
    stop: Arc<AtomicBool>,
}

impl Write for Stoppable {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            let error = match self.output.write(data) {
                Err(e) => e,
                outcome => return outcome,
            };
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                // Another process has made the output non-blocking: checks `stop`, and tries again.
                io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                _ => return Err(error),
            }
            if self.stop.load(Ordering::Acquire) {
                return Ok(data.len());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// COM1.
pub struct Serial {
    uart: Mutex<Uart<Events, Stoppable>>,
    /// Signalled when [`Serial::type_in`] may succeed again.
    can_type: EventFd,
    /// Whether [`Serial::type_in`] has failed because a vCPU was using the UART.
    turned_away: AtomicBool,
    /// Whether a character was written since the last [`Serial::update_interrupt`].
    interrupt_due: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

type Events = Arc<BufferEmpty>;

impl Serial {
    /// A UART that raises `interrupt` and writes to `output`.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(interrupt: EventFd, output: Output) -> io::Result<Self> {
        let can_type = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let events = Arc::new(BufferEmpty(can_type.try_clone()?));
        let stop = Arc::new(AtomicBool::new(false));
        let output = Stoppable {
            output,
            stop: Arc::clone(&stop),
        };
        let uart = Mutex::new(Uart::new(interrupt, events, output));
        Ok(Self {
            uart,
            can_type,
            turned_away: AtomicBool::new(false),
            interrupt_due: Arc::default(),
            stop,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Uart<Events, Stoppable>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An eventfd that is readable when [`Serial::type_in`] may succeed: the guest has emptied the
    /// receive buffer, or a vCPU that was using the UART has released it.
    pub fn can_type(&self) -> &EventFd {
        &self.can_type
    }

    /// Puts typed characters into the receive buffer; returns how many were taken, which may be
    /// zero.
    ///
    /// The call never waits. If a vCPU is using the UART, and may itself be waiting for an output
    /// without a reader, no character is taken, and [`Serial::can_type`] is signalled later.
    pub fn type_in(&self, data: &[u8]) -> usize {
        let Some(mut uart) = self.try_lock() else {
            return 0;
        };
        let taken = uart.receive(data);
        uart.update_interrupt();
        taken
    }

    /// Locks the UART if no vCPU is using it. Otherwise sets the flag `turned_away`, and the vCPU
    /// signals [`Serial::can_type`]. The vCPU reads the flag after it has released the lock, and
    /// the second attempt to lock comes after the flag is set. So the signal cannot be missed.
    fn try_lock(&self) -> Option<MutexGuard<'_, Uart<Events, Stoppable>>> {
        let attempt = || match self.uart.try_lock() {
            Ok(uart) => Some(uart),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        attempt().or_else(|| {
            self.turned_away.store(true, Ordering::SeqCst);
            attempt()
        })
    }

    /// Signals [`Serial::can_type`] if a call of [`Serial::type_in`] was turned away. To be called
    /// by a vCPU that has released the UART.
    fn tell_turned_away(&self) {
        if self.turned_away.swap(false, Ordering::SeqCst) {
            let _ = self.can_type.write(1);
        }
    }

    /// Brings the UART to its power-on state. Typed characters that were not read are lost.
    pub fn reset(&self) {
        let mut uart = self.lock();
        // Interrupts off, line control and modem control to zero (16550 data sheet, reset values).
        for register in [LCR, IER, MCR] {
            uart.write(register, 0);
        }
        while uart.read(LSR) & LSR_DATA_READY != 0 {
            uart.read(DATA);
        }
        uart.update_interrupt();
    }

    /// Raises the interrupt of the empty transmitter, if a character was written since the last
    /// call. Writing a character does not raise the interrupt: in the same exit more characters may
    /// follow, or the driver may look at the status itself or disable the interrupt.
    pub fn update_interrupt(&self) {
        if self.interrupt_due.swap(false, Ordering::AcqRel) {
            self.lock().update_interrupt();
            self.tell_turned_away();
        }
    }

    /// The flag that a call of [`Serial::update_interrupt`] is due, for the code that handles
    /// exits.
    pub fn interrupt_due(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt_due)
    }

    /// Sets whether the VM is being stopped. While it is, output that would block is dropped.
    pub fn set_stopping(&self, stopping: bool) {
        self.stop.store(stopping, Ordering::Release);
    }
}

/// The registers are bytes. The bus of a PC splits a wider access into one access for each byte, in
/// the order of the ports.
impl DevicePio for Serial {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let mut uart = self.lock();
        for (register, value) in (offset..).zip(data) {
            if let Ok(register) = u8::try_from(register) {
                *value = uart.read(register);
                uart.update_interrupt();
            }
        }
        drop(uart);
        self.tell_turned_away();
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let mut uart = self.lock();
        for (register, value) in (offset..).zip(data) {
            match u8::try_from(register) {
                Ok(DATA) => {
                    uart.write(DATA, *value);
                    self.interrupt_due.store(true, Ordering::Release);
                }
                Ok(register) => {
                    uart.write(register, *value);
                    uart.update_interrupt();
                }
                // The range of the device has eight ports.
                Err(_) => {}
            }
        }
        drop(uart);
        self.tell_turned_away();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(output: Output) -> Serial {
        Serial::new(EventFd::new(libc::EFD_NONBLOCK).unwrap(), output).unwrap()
    }

    #[test]
    fn input_is_read_and_an_empty_buffer_is_told() {
        let s = serial(Box::new(io::sink()));
        assert_eq!(s.type_in(b"ab"), 2);
        let mut data = [0];
        s.pio_read(PioAddress(0), 0, &mut data);
        assert_eq!(data, *b"a");
        assert!(s.can_type().read().is_err());
        s.pio_read(PioAddress(0), 0, &mut data);
        assert_eq!(data, *b"b");
        assert_eq!(s.can_type().read().unwrap(), 1);
    }

    /// No byte of a wide access is lost.
    #[test]
    fn a_wide_access_is_one_for_each_byte() {
        let s = serial(Box::new(io::sink()));
        // Line control and modem control (16550 data sheet, registers 3 and 4), then both again.
        s.pio_write(PioAddress(0), u16::from(LCR), &[0x03, 0x0b]);
        let mut both = [0; 2];
        s.pio_read(PioAddress(0), u16::from(LCR), &mut both);
        assert_eq!(both, [0x03, 0x0b]);
        // The scratch register, and nothing behind it.
        s.pio_write(PioAddress(0), 7, &[0x5a]);
        s.pio_read(PioAddress(0), 7, &mut both[..1]);
        assert_eq!(both[0], 0x5a);
    }

    #[test]
    fn typing_does_not_wait_for_a_vcpu() {
        let s = serial(Box::new(io::sink()));
        let vcpu = s.lock();
        assert_eq!(s.type_in(b"a"), 0);
        drop(vcpu);
        s.tell_turned_away();
        assert_eq!(s.can_type().read().unwrap(), 1);
        assert_eq!(s.type_in(b"a"), 1);
    }

    #[test]
    fn a_stop_ends_a_write_that_is_interrupted_for_ever() {
        struct Interrupted(Arc<AtomicBool>, u32);
        impl Write for Interrupted {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.1 += 1;
                self.0.store(self.1 > 3, Ordering::Release);
                Err(io::ErrorKind::Interrupted.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut output = Stoppable {
            output: Box::new(Interrupted(stop.clone(), 0)),
            stop: stop.clone(),
        };
        output.write_all(b"x").unwrap();
    }

    #[test]
    fn reset_forgets_what_was_typed() {
        let s = serial(Box::new(io::sink()));
        s.type_in(b"abc");
        s.reset();
        assert_eq!(s.type_in(&[0; 100]), 64);
    }
}
