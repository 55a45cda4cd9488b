//! Guests of a few hundred bytes, in flat 32-bit protected mode without paging. iced-x86 encodes
//! the instructions; this file gives names to what tests do often, and [`Asm::code`] takes the
//! rest.
//!
//! A guest begins with a stack and ends in [`Asm::finish`], which adds the routine behind
//! [`Asm::print_eax`].

use iced_x86::code_asm::{
    CodeAssembler, CodeLabel, al, ax, bl, byte_ptr, dword_ptr, dx, eax, ebx, ecx, edx, esp,
    word_ptr,
};
use iced_x86::{BlockEncoderOptions, IcedError};

/// Where a guest is loaded and where its first instruction is.
pub const BASE: u32 = 0x10_0000;
const STACK: u32 = 0x9_0000;
const COM1: u16 = 0x3f8;
pub const COM1_STATUS: u16 = COM1 + 5;
/// Bits of the line status register: a character is there.
const DATA_READY: u32 = 1;

/// An address in the code, which may come later.
#[derive(Clone, Copy)]
pub struct Label(usize);

/// How many bytes an access has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Byte,
    Word,
    Dword,
}

/// Code under construction.
pub struct Asm {
    code: CodeAssembler,
    labels: Vec<CodeLabel>,
    /// Instructions whose last four bytes become a label's address.
    addresses: Vec<(usize, Label)>,
    print_hex: Label,
}

/// 16-bit code for real mode, at the start of a segment.
pub fn real_mode(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut code = CodeAssembler::new(16).expect("16 bits");
    build(&mut code).expect("instructions");
    code.assemble(0).expect("code")
}

impl Asm {
    pub fn new() -> Self {
        let mut asm = Self {
            code: CodeAssembler::new(32).expect("32 bits"),
            labels: Vec::new(),
            addresses: Vec::new(),
            print_hex: Label(0),
        };
        asm.print_hex = asm.label();
        asm.code(|a| a.mov(esp, STACK));
        asm
    }

    /// The code, to be loaded at [`BASE`].
    pub fn finish(mut self) -> Vec<u8> {
        self.hang();
        self.bind(self.print_hex);
        self.print_hex_routine();
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let assembled = self.code.assemble_options(BASE.into(), options);
        let assembled = assembled.expect("code");
        let mut code = assembled.inner.code_buffer.clone();
        for (instruction, label) in self.addresses {
            let next = assembled.inner.new_instruction_offsets[instruction + 1] as usize;
            let address = assembled.label_ip(&self.labels[label.0]);
            let address = address.expect("a bound label") as u32;
            code[next - 4..next].copy_from_slice(&address.to_le_bytes());
        }
        code
    }

    /// Any instructions, by iced-x86's names.
    pub fn code(
        &mut self,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> &mut Self {
        build(&mut self.code).expect("instructions");
        self
    }

    // Labels and jumps.

    pub fn label(&mut self) -> Label {
        self.labels.push(self.code.create_label());
        Label(self.labels.len() - 1)
    }

    pub fn bind(&mut self, label: Label) -> &mut Self {
        let label = &mut self.labels[label.0];
        self.code.set_label(label).expect("a label is bound once");
        // An instruction has one label at most; this one has no bytes.
        self.code(|a| a.zero_bytes())
    }

    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    pub fn jmp(&mut self, to: Label) -> &mut Self {
        let to = self.labels[to.0];
        self.code(|a| a.jmp(to))
    }

    /// Below, unsigned.
    pub fn jb(&mut self, to: Label) -> &mut Self {
        let to = self.labels[to.0];
        self.code(|a| a.jb(to))
    }

    /// Not below: no carry.
    pub fn jae(&mut self, to: Label) -> &mut Self {
        let to = self.labels[to.0];
        self.code(|a| a.jae(to))
    }

    pub fn je(&mut self, to: Label) -> &mut Self {
        let to = self.labels[to.0];
        self.code(|a| a.je(to))
    }

    pub fn jne(&mut self, to: Label) -> &mut Self {
        let to = self.labels[to.0];
        self.code(|a| a.jne(to))
    }

    pub fn pause(&mut self) -> &mut Self {
        self.code(|a| a.pause())
    }

    /// The guest spins here for ever.
    pub fn hang(&mut self) -> &mut Self {
        let again = self.here();
        self.pause().jmp(again)
    }

    /// Emits `body` so that it runs `count` times; ecx counts down.
    pub fn repeat(&mut self, count: u32, body: impl FnOnce(&mut Self)) -> &mut Self {
        self.mov_ecx(count);
        let again = self.here();
        self.code(|a| a.push(ecx));
        body(self);
        self.code(|a| {
            a.pop(ecx)?;
            a.dec(ecx)
        });
        self.jne(again)
    }

    // Registers.

    pub fn mov_eax(&mut self, value: u32) -> &mut Self {
        self.code(|a| a.mov(eax, value))
    }

    pub fn mov_eax_label(&mut self, label: Label) -> &mut Self {
        self.addresses.push((self.code.instructions().len(), label));
        self.mov_eax(0)
    }

    pub fn mov_ecx(&mut self, value: u32) -> &mut Self {
        self.code(|a| a.mov(ecx, value))
    }

    pub fn mov_edx(&mut self, value: u32) -> &mut Self {
        self.code(|a| a.mov(edx, value))
    }

    pub fn cmp_eax(&mut self, value: u32) -> &mut Self {
        self.code(|a| a.cmp(eax, value))
    }

    /// The processor takes no interrupts from here on.
    pub fn cli(&mut self) -> &mut Self {
        self.code(|a| a.cli())
    }

    /// The processor takes interrupts again.
    pub fn sti(&mut self) -> &mut Self {
        self.code(|a| a.sti())
    }

    // Memory.

    /// eax takes what is at `address`, extended with zeroes.
    pub fn load(&mut self, width: Width, address: u32) -> &mut Self {
        match width {
            Width::Byte => self.mov_eax(0).code(|a| a.mov(al, byte_ptr(address))),
            Width::Word => self.mov_eax(0).code(|a| a.mov(ax, word_ptr(address))),
            Width::Dword => self.code(|a| a.mov(eax, dword_ptr(address))),
        }
    }

    pub fn load32(&mut self, address: u32) -> &mut Self {
        self.load(Width::Dword, address)
    }

    /// Stores the lowest bytes of `value`.
    pub fn store(&mut self, width: Width, address: u32, value: u32) -> &mut Self {
        self.code(|a| match width {
            Width::Byte => a.mov(byte_ptr(address), value & 0xff),
            Width::Word => a.mov(word_ptr(address), value & 0xffff),
            Width::Dword => a.mov(dword_ptr(address), value),
        })
    }

    pub fn store32(&mut self, address: u32, value: u32) -> &mut Self {
        self.store(Width::Dword, address, value)
    }

    /// Stores bytes, one after the other.
    pub fn store_bytes(&mut self, address: u32, bytes: &[u8]) -> &mut Self {
        for (at, byte) in (address..).zip(bytes) {
            self.store(Width::Byte, at, u32::from(*byte));
        }
        self
    }

    pub fn store_eax(&mut self, address: u32) -> &mut Self {
        self.code(|a| a.mov(dword_ptr(address), eax))
    }

    /// Adds one to the dword at `address`.
    pub fn inc32(&mut self, address: u32) -> &mut Self {
        self.code(|a| a.inc(dword_ptr(address)))
    }

    /// The same as one step for all processors.
    pub fn lock_inc32(&mut self, address: u32) -> &mut Self {
        self.code(|a| a.lock().inc(dword_ptr(address)))
    }

    // Ports.

    /// Reads the port that dx names.
    pub fn in_dx(&mut self, width: Width) -> &mut Self {
        self.code(|a| match width {
            Width::Byte => a.in_(al, dx),
            Width::Word => a.in_(ax, dx),
            Width::Dword => a.in_(eax, dx),
        })
    }

    /// Writes eax, or a part of it, to the port that dx names.
    pub fn out_dx(&mut self, width: Width) -> &mut Self {
        self.code(|a| match width {
            Width::Byte => a.out(dx, al),
            Width::Word => a.out(dx, ax),
            Width::Dword => a.out(dx, eax),
        })
    }

    pub fn out(&mut self, width: Width, port: u16, value: u32) -> &mut Self {
        self.mov_eax(value).mov_edx(port.into()).out_dx(width)
    }

    /// eax takes what the port has, extended with zeroes.
    pub fn input(&mut self, width: Width, port: u16) -> &mut Self {
        self.mov_eax(0).mov_edx(port.into()).in_dx(width)
    }

    pub fn outb(&mut self, port: u16, value: u8) -> &mut Self {
        self.out(Width::Byte, port, value.into())
    }

    // Talking to the test.

    /// Text to the serial port.
    pub fn print(&mut self, text: &str) -> &mut Self {
        self.mov_edx(COM1.into());
        for byte in text.bytes() {
            self.code(|a| a.mov(al, u32::from(byte)));
            self.out_dx(Width::Byte);
        }
        self
    }

    /// eax in eight hexadecimal digits and a newline. Registers stay.
    pub fn print_eax(&mut self) -> &mut Self {
        let routine = self.labels[self.print_hex.0];
        self.code(|a| a.call(routine))
    }

    /// Waits for a character on the serial port and takes it.
    pub fn wait_key(&mut self) -> &mut Self {
        let again = self.here();
        self.pause();
        self.input(Width::Byte, COM1_STATUS);
        self.code(|a| a.test(al, DATA_READY)).je(again);
        self.input(Width::Byte, COM1)
    }

    /// S5 by the sleep control register.
    pub fn power_off(&mut self) -> &mut Self {
        self.outb(0x600, 0x34).hang()
    }

    /// The ACPI reset register.
    pub fn reset(&mut self) -> &mut Self {
        self.outb(0x602, 1).hang()
    }

    /// An exception with no interrupt table to handle it.
    pub fn triple_fault(&mut self) -> &mut Self {
        self.code(|a| a.ud2())
    }

    fn print_hex_routine(&mut self) {
        self.code(|a| {
            a.pushad()?;
            a.mov(ebx, eax)
        });
        self.mov_ecx(8).mov_edx(COM1.into());
        let (again, digit) = (self.here(), self.label());
        let to = self.labels[digit.0];
        self.code(|a| {
            a.rol(ebx, 4)?;
            a.mov(al, bl)?;
            a.and(al, 15)?;
            a.add(al, i32::from(b'0'))?;
            a.cmp(al, i32::from(b'9'))?;
            a.jbe(to)?;
            a.add(al, i32::from(b'a' - b'9' - 1))
        });
        self.bind(digit).out_dx(Width::Byte);
        self.code(|a| a.dec(ecx)).jne(again);
        self.code(|a| {
            a.mov(al, i32::from(b'\n'))?;
            a.out(dx, al)?;
            a.popad()?;
            a.ret()
        });
    }
}
