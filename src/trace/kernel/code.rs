//! Writes programs for the kernel's own machine, with labels in place of distances.

use crate::sys::bpf::Instruction;

/// Registers: r0 has a function's value, r1 to r5 its arguments, r6 to r9 outlive calls, and r10 is
/// the end of the stack.
pub type Register = u8;
/// The end of the stack.
pub const STACK: Register = 10;

/// Functions of the kernel, by their numbers in linux/bpf.h.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// `bpf_map_lookup_elem(map, key)`
    Lookup = 1,
    /// `bpf_ktime_get_ns()`
    Time = 5,
    /// `bpf_get_current_pid_tgid()`
    Thread = 14,
    /// `bpf_probe_read_user(to, size, from)`
    ReadUser = 112,
    /// `bpf_probe_read_kernel(to, size, from)`
    ReadKernel = 113,
    /// `bpf_send_signal_thread(signal)`
    Signal = 117,
    /// `bpf_ringbuf_reserve(ring, size, flags)`
    Reserve = 131,
    /// `bpf_ringbuf_submit(record, flags)`
    Submit = 132,
    /// `bpf_ringbuf_query(ring, flags)`
    Query = 134,
}

/// What a jump asks of a register and a number, or a second register.
#[derive(Clone, Copy, Debug)]
pub enum If {
    /// Equal.
    Equal = 0x10,
    /// Above, without sign.
    Above = 0x20,
    /// A bit is set.
    Has = 0x40,
    /// Not equal.
    Differs = 0x50,
    /// Below, without sign.
    Below = 0xa0,
}

/// What is done to a register.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    /// Adds.
    Add = 0x00,
    /// Subtracts.
    Sub = 0x10,
    /// Sets bits.
    Or = 0x40,
    /// Shifts to the right, without sign.
    Shift = 0x70,
    /// Multiplies.
    Mul = 0x20,
    /// Copies.
    Move = 0xb0,
}

/// A position in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub struct Code {
    instructions: Vec<Instruction>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

const JUMP_ALWAYS: u8 = 0x05;
const JUMP: u8 = 0x05;
const JUMP_HALF: u8 = 0x06;
const ALU_HALF: u8 = 0x04;
const ALU: u8 = 0x07;
const BY_REGISTER: u8 = 0x08;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// BPF_PSEUDO_MAP_FD: the number is a map's descriptor.
const MAP: Register = 1;

impl Code {
    fn add(&mut self, code: u8, (to, from): (Register, Register), offset: i16, immediate: i32) {
        self.instructions.push(Instruction {
            code,
            registers: to | from << 4,
            offset,
            immediate,
        });
    }

    /// A position that is not known yet.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The position is here.
    pub fn here(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// Goes on there.
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(JUMP_ALWAYS, (0, 0), 0, 0);
    }

    /// Goes on there if a register is so by a number.
    pub fn jump_if(&mut self, register: Register, test: If, number: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(JUMP | test as u8, (register, 0), 0, number);
    }

    /// Goes on there if the low half of a register is so by a number.
    pub fn jump_if_half(&mut self, register: Register, test: If, number: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(JUMP_HALF | test as u8, (register, 0), 0, number);
    }

    /// Goes on there if a register is so by another.
    pub fn jump_by(&mut self, register: Register, test: If, other: Register, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(JUMP | BY_REGISTER | test as u8, (register, other), 0, 0);
    }

    /// Does something to a register with a number.
    pub fn with(&mut self, register: Register, what: Do, number: i32) {
        self.add(ALU | what as u8, (register, 0), 0, number);
    }

    /// Does something to the low half of a register with a number, and clears the high half.
    pub fn with_half(&mut self, register: Register, what: Do, number: i32) {
        self.add(ALU_HALF | what as u8, (register, 0), 0, number);
    }

    /// Does something to a register with another.
    pub fn by(&mut self, register: Register, what: Do, other: Register) {
        self.add(ALU | BY_REGISTER | what as u8, (register, other), 0, 0);
    }

    /// Loads eight bytes from an address and an offset.
    pub fn load(&mut self, to: Register, from: Register, offset: i16) {
        self.add(0x79, (to, from), offset, 0);
    }

    /// Loads four bytes.
    pub fn load_half(&mut self, to: Register, from: Register, offset: i16) {
        self.add(0x61, (to, from), offset, 0);
    }

    /// Stores eight bytes.
    pub fn store(&mut self, to: Register, offset: i16, from: Register) {
        self.add(0x7b, (to, from), offset, 0);
    }

    /// Stores four bytes.
    pub fn store_half(&mut self, to: Register, offset: i16, from: Register) {
        self.add(0x63, (to, from), offset, 0);
    }

    /// Stores a number in eight bytes.
    pub fn store_number(&mut self, to: Register, offset: i16, number: i32) {
        self.add(0x7a, (to, 0), offset, number);
    }

    /// Loads the address of a map.
    pub fn map(&mut self, to: Register, number: i32) {
        self.add(0x18, (to, MAP), 0, number);
        self.add(0, (0, 0), 0, 0);
    }

    /// Loads the address of a part of the stack.
    pub fn stack(&mut self, to: Register, offset: i32) {
        self.by(to, Do::Move, STACK);
        self.with(to, Do::Add, offset);
    }

    /// Calls a function of the kernel.
    pub fn call(&mut self, function: Function) {
        self.add(CALL, (0, 0), 0, function as i32);
    }

    /// The program ends here, with all its jumps known.
    pub fn end(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        self.with(0, Do::Move, 0);
        self.add(EXIT, (0, 0), 0, 0);
        for (at, label) in self.jumps {
            let to = self.labels[label.0].unwrap_or(end);
            self.instructions[at].offset = (to as i64 - at as i64 - 1) as i16;
        }
        self.instructions
    }
}
