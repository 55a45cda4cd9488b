//! COM1: vm-superio's 16550 between the guest's ports and our standard streams.

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

/// Ports that a 16550 takes.
pub const PORTS: u16 = 8;

/// Where the guest's characters go.
pub type Output = Box<dyn Write + Send>;

/// Tells the main loop that the guest has taken what was typed.
struct Room(EventFd);

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // A counter that cannot overflow; a lost wake-up is not possible.
        let _ = self.0.write(1);
    }
}

/// Writes that give up once the VM is being stopped, so that an output nobody reads cannot hold it.
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
                // Somebody has made the output non-blocking: wait, but not deaf.
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
    uart: Mutex<Uart<RoomHandle, Stoppable>>,
    room: EventFd,
    /// The keyboard found a vCPU in the UART.
    turned_away: AtomicBool,
    /// A character was written, and the interrupt output not looked at since.
    unsettled: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

type RoomHandle = Arc<Room>;

impl Serial {
    /// A UART that raises `interrupt` and writes to `output`.
    ///
    /// # Errors
    /// When no eventfd can be had.
    pub fn new(interrupt: EventFd, output: Output) -> io::Result<Self> {
        let room = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let events = Arc::new(Room(room.try_clone()?));
        let stop = Arc::new(AtomicBool::new(false));
        let output = Stoppable {
            output,
            stop: Arc::clone(&stop),
        };
        let uart = Mutex::new(Uart::new(interrupt, events, output));
        Ok(Self {
            uart,
            room,
            turned_away: AtomicBool::new(false),
            unsettled: Arc::default(),
            stop,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Uart<RoomHandle, Stoppable>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signalled whenever the guest has emptied the receive buffer, or typing was turned away.
    pub fn room(&self) -> &EventFd {
        &self.room
    }

    /// Hands typed characters to the guest; returns how many it took, which may be none.
    ///
    /// A vCPU may be waiting in here for an output that nobody reads; whoever types must not wait
    /// with it, and is told by [`Serial::room`] when to try again.
    pub fn type_in(&self, data: &[u8]) -> usize {
        let Some(mut uart) = self.try_lock() else {
            return 0;
        };
        let taken = uart.receive(data);
        uart.settle();
        taken
    }

    /// The UART if no vCPU is in it. Else the vCPU signals on its way out: it looks at the flag
    /// after it has let go of the lock, and the second try here comes after the flag is set.
    fn try_lock(&self) -> Option<MutexGuard<'_, Uart<RoomHandle, Stoppable>>> {
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

    /// After a vCPU has let go of the UART.
    fn tell_turned_away(&self) {
        if self.turned_away.swap(false, Ordering::SeqCst) {
            let _ = self.room.write(1);
        }
    }

    /// Power-on state. What was typed and not read is gone.
    pub fn reset(&self) {
        let mut uart = self.lock();
        // Interrupts off, line control and modem control to zero (16550 data sheet, reset values).
        for register in [LCR, IER, MCR] {
            uart.write(register, 0);
        }
        while uart.read(LSR) & LSR_DATA_READY != 0 {
            uart.read(DATA);
        }
        uart.settle();
    }

    /// Raises the interrupt that says that characters have been sent. Writing one does not: more may
    /// follow, and the driver may look by itself, or switch the interrupt off, in the same exit.
    pub fn settle(&self) {
        if self.unsettled.swap(false, Ordering::AcqRel) {
            self.lock().settle();
            self.tell_turned_away();
        }
    }

    /// Set while [`Serial::settle`] has something to do.
    pub fn unsettled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unsettled)
    }

    /// From now on (or no longer) output is dropped instead of waited for.
    pub fn set_stopping(&self, stopping: bool) {
        self.stop.store(stopping, Ordering::Release);
    }
}

impl DevicePio for Serial {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        // Registers are bytes; a wider access reads ones.
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            let mut uart = self.lock();
            *value = uart.read(offset);
            uart.settle();
            drop(uart);
            self.tell_turned_away();
        }
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (&[value], Ok(offset)) = (data, u8::try_from(offset)) {
            let mut uart = self.lock();
            uart.write(offset, value);
            if offset == DATA {
                self.unsettled.store(true, Ordering::Release);
            } else {
                uart.settle();
            }
            drop(uart);
            self.tell_turned_away();
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
    fn input_is_read_and_room_is_told() {
        let s = serial(Box::new(io::sink()));
        assert_eq!(s.type_in(b"ab"), 2);
        let mut data = [0];
        s.pio_read(PioAddress(0), 0, &mut data);
        assert_eq!(data, *b"a");
        assert!(s.room().read().is_err());
        s.pio_read(PioAddress(0), 0, &mut data);
        assert_eq!(data, *b"b");
        assert_eq!(s.room().read().unwrap(), 1);
    }

    #[test]
    fn typing_does_not_wait_for_a_vcpu() {
        let s = serial(Box::new(io::sink()));
        let vcpu = s.lock();
        assert_eq!(s.type_in(b"a"), 0);
        drop(vcpu);
        s.tell_turned_away();
        assert_eq!(s.room().read().unwrap(), 1);
        assert_eq!(s.type_in(b"a"), 1);
    }

    #[test]
    fn wide_accesses_are_nothing() {
        let s = serial(Box::new(io::sink()));
        let mut data = [0xff; 4];
        s.pio_read(PioAddress(0), 0, &mut data);
        assert_eq!(data, [0xff; 4]);
        s.pio_write(PioAddress(0), 0, &data);
    }

    #[test]
    fn a_stop_ends_a_write_that_is_interrupted_for_ever() {
        struct Stuck(Arc<AtomicBool>, u32);
        impl Write for Stuck {
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
            output: Box::new(Stuck(stop.clone(), 0)),
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
