//! COM1's registers, compared with a model of a 16550: characters in both directions, the level of
//! the interrupt output, and a transmitter that is busy at times.

#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vm_superio::serial::NoEvents;
use vmm::devices::uart::{DATA, IER, LCR, LSR, MCR, Transmitter, Uart};
use vmm_sys_util::eventfd::EventFd;

#[derive(Debug, Arbitrary)]
enum Step {
    Read(u8),
    Write(u8, u8),
    /// Somebody types.
    Type(Vec<u8>),
    /// The output takes characters, or does not.
    Busy(bool),
}

const IIR: u8 = 2;
const SCRATCH: u8 = 7;
/// Bytes of the receive buffer.
const CAPACITY: usize = 64;
const DIVISOR: u8 = 1 << 7;
const LOOPBACK: u8 = 1 << 4;

/// The output: all that was written, and whether it is busy.
#[derive(Clone, Default)]
struct Line {
    written: Rc<RefCell<Vec<u8>>>,
    busy: Rc<Cell<bool>>,
}

impl io::Write for Line {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.written.borrow_mut().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transmitter for Line {
    fn is_busy(&self) -> bool {
        self.busy.get()
    }
}

/// The registers that a guest reads back, and what is on its way.
#[derive(Default)]
struct Model {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    received: VecDeque<u8>,
    sent: Vec<u8>,
    /// A received character may be due that was not signalled: it came since the last read of the
    /// buffer, and IIR was not read since.
    unseen: bool,
}

impl Model {
    fn has_divisor(&self) -> bool {
        self.lcr & DIVISOR != 0
    }

    fn receive(&mut self, byte: u8) {
        if self.received.len() < CAPACITY {
            self.received.push_back(byte);
            self.unseen = true;
        }
    }

    fn write(&mut self, register: u8, value: u8) {
        match register {
            DATA | IER if self.has_divisor() => self.divisor[usize::from(register)] = value,
            DATA if self.mcr & LOOPBACK != 0 => self.receive(value),
            DATA => self.sent.push(value),
            IER => {
                self.ier = value & 0x0f;
                // A cause that is enabled again is told again.
                self.unseen |= !self.received.is_empty();
            }
            LCR => self.lcr = value,
            MCR => self.mcr = value,
            SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    /// The value that a read must have; `None` if the model does not know it.
    fn read(&mut self, register: u8) -> Option<u8> {
        match register {
            DATA | IER if self.has_divisor() => Some(self.divisor[usize::from(register)]),
            DATA => {
                self.unseen = false;
                Some(self.received.pop_front().unwrap_or(0))
            }
            IER => Some(self.ier),
            LCR => Some(self.lcr),
            MCR => Some(self.mcr),
            SCRATCH => Some(self.scratch),
            _ => None,
        }
    }
}

struct Test {
    uart: Uart<NoEvents, Line>,
    line: Line,
    interrupt: EventFd,
    model: Model,
}

impl Test {
    fn new() -> Self {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let line = Line::default();
        let mut uart = Uart::new(interrupt.try_clone().unwrap(), NoEvents, line.clone());
        let mut model = Model::default();
        for register in [LCR, MCR, IER] {
            uart.write(register, 0);
            model.write(register, 0);
        }
        model.divisor = [0x0c, 0];
        Self {
            uart,
            line,
            interrupt,
            model,
        }
    }

    fn read(&mut self, register: u8) {
        let unseen = self.model.unseen && !self.model.received.is_empty();
        let expected = self.model.read(register);
        let value = self.uart.read(register);
        if let Some(expected) = expected {
            assert_eq!(value, expected, "register {register}");
        }
        let busy = self.line.busy.get();
        match register {
            LSR => {
                assert_eq!(
                    value & 1 != 0,
                    !self.model.received.is_empty(),
                    "data ready"
                );
                assert_eq!(
                    value & 0x60,
                    if busy { 0 } else { 0x60 },
                    "transmitter empty"
                );
            }
            IIR => {
                let (none, sent, received) = (value & 1 != 0, value & 2 != 0, value & 4 != 0);
                assert_eq!(value & 0xc0, 0xc0, "it has FIFOs");
                assert_eq!(none, !sent && !received, "IIR {value:#x}");
                assert!(
                    !sent || self.model.ier & 2 != 0 && !busy,
                    "transmitter's cause"
                );
                assert!(
                    !received || self.model.ier & 1 != 0,
                    "a disabled cause is shown"
                );
                assert!(
                    received || !unseen || self.model.ier & 1 == 0,
                    "a character is lost"
                );
                self.model.unseen = false;
            }
            _ => {}
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut test = Test::new();
    for step in steps.iter().take(200) {
        let receives = test.model.ier & 1 != 0;
        match step {
            Step::Read(register) => test.read(register % 10),
            Step::Write(register, value) => {
                test.model.write(register % 10, *value);
                test.uart.write(register % 10, *value);
            }
            Step::Type(data) => {
                let free = CAPACITY - test.model.received.len();
                let taken = test.uart.receive(data);
                let fits = data.len().min(free);
                // Nobody types in loopback mode.
                let looped = test.model.mcr & LOOPBACK != 0;
                assert_eq!(taken, if looped { 0 } else { fits });
                let was_empty = test.model.received.is_empty();
                data.iter().take(taken).for_each(|b| test.model.receive(*b));
                // The level rises with the first character.
                let _ = test.interrupt.read();
                test.uart.update_interrupt();
                if receives && taken > 0 && was_empty && test.model.ier == 1 {
                    assert_eq!(
                        test.interrupt.read().unwrap(),
                        1,
                        "a typed character interrupts"
                    );
                }
            }
            Step::Busy(busy) => {
                let was = test.line.busy.replace(*busy);
                if was && !busy {
                    test.uart.set_transmitter_empty();
                }
            }
        }
        test.uart.update_interrupt();
        if test.model.ier & 3 == 0 {
            // All causes are disabled: the level is low, and no edge comes from it.
            let _ = test.interrupt.read();
            test.uart.update_interrupt();
            assert!(
                test.interrupt.read().is_err(),
                "an interrupt without a cause"
            );
        }
        assert_eq!(*test.line.written.borrow(), test.model.sent);
    }
});
