//! COM1: connects the guest's ports, through vm-superio's 16550, to this program's standard
//! streams.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::output_queue::{self, Output, QueueEnd, QueueWriter};
use crate::devices::uart::{DATA, IER, LCR, LSR, LSR_DATA_READY, MCR, Uart};

/// The number of ports of a 16550.
pub const PORTS: u16 = 8;

/// How long the end of a run waits for a reader that takes nothing of the output.
const PATIENCE: Duration = Duration::from_secs(1);

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

type Com1 = Uart<Arc<BufferEmpty>, QueueWriter>;

/// COM1. Its lock is held only for the moment of an access: nobody waits for the output with it.
pub struct Serial {
    uart: Arc<Mutex<Com1>>,
    output: QueueEnd,
    /// Signalled when [`Serial::type_in`] may succeed again.
    can_type: EventFd,
    /// Whether a character was written since the last [`Serial::update_interrupt`].
    interrupt_due: Arc<AtomicBool>,
}

impl Serial {
    /// A UART that raises `interrupt` and writes to `output`.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(interrupt: EventFd, output: Output) -> io::Result<Self> {
        let can_type = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let events = Arc::new(BufferEmpty(can_type.try_clone()?));
        let mut end = None;
        let uart = Arc::new_cyclic(|uart: &Weak<Mutex<Com1>>| {
            let uart = Weak::clone(uart);
            let idle = move || {
                if let Some(uart) = uart.upgrade() {
                    lock(&uart).set_transmitter_empty();
                }
            };
            let (writer, queue_end) = output_queue::queue(output, idle);
            end = Some(queue_end);
            Mutex::new(Uart::new(interrupt, events, writer))
        });
        let output = end.ok_or_else(|| io::Error::other("no queue"))?;
        Ok(Self {
            uart,
            output,
            can_type,
            interrupt_due: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Com1> {
        lock(&self.uart)
    }

    /// An eventfd that is readable when [`Serial::type_in`] may succeed: the guest has emptied the
    /// receive buffer.
    pub fn can_type(&self) -> &EventFd {
        &self.can_type
    }

    /// Puts typed characters into the receive buffer; returns how many were taken, which may be
    /// zero. The call never waits.
    pub fn type_in(&self, data: &[u8]) -> usize {
        let mut uart = self.lock();
        let taken = uart.receive(data);
        uart.update_interrupt();
        taken
    }

    /// Waits until the output has all characters, at the end of a run. An output that takes nothing
    /// for a second loses the rest.
    pub fn flush(&self) {
        self.output.flush(PATIENCE);
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
        }
    }

    /// The flag that a call of [`Serial::update_interrupt`] is due, for the code that handles
    /// exits.
    pub fn interrupt_due(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt_due)
    }
}

fn lock(uart: &Mutex<Com1>) -> MutexGuard<'_, Com1> {
    uart.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn reset_forgets_what_was_typed() {
        let s = serial(Box::new(io::sink()));
        s.type_in(b"abc");
        s.reset();
        assert_eq!(s.type_in(&[0; 100]), 64);
    }
}
