//! An assembler for guests of a few hundred bytes, in flat 32-bit protected mode without paging:
//! the instructions that the tests need and no others (Intel SDM, volume 2).
//!
//! A guest begins with a stack and ends in [`Asm::finish`], which adds the routine behind
//! [`Asm::print_eax`].

/// Where a guest is loaded and where its first instruction is.
pub const BASE: u32 = 0x10_0000;
const STACK: u32 = 0x9_0000;
const COM1: u16 = 0x3f8;
const COM1_STATUS: u16 = COM1 + 5;

/// A place in the code, which may come later.
#[derive(Clone, Copy)]
pub struct Label(usize);

/// How many bytes an access has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Byte,
    Word,
    Dword,
}

#[derive(Clone, Copy)]
enum Fixup {
    Relative,
    Absolute,
}

/// Code under construction.
pub struct Asm {
    code: Vec<u8>,
    labels: Vec<Option<u32>>,
    fixups: Vec<(usize, Label, Fixup)>,
    print_hex: Label,
}

impl Asm {
    pub fn new() -> Self {
        let mut asm = Self {
            code: Vec::new(),
            labels: vec![None],
            fixups: Vec::new(),
            print_hex: Label(0),
        };
        asm.emit(&[0xbc]).dword(STACK); // mov esp, STACK
        asm
    }

    /// The code, to be loaded at [`BASE`].
    pub fn finish(mut self) -> Vec<u8> {
        self.hang();
        self.bind(self.print_hex);
        self.print_hex_routine();
        for (at, label, kind) in std::mem::take(&mut self.fixups) {
            let target = self.labels[label.0].expect("every label is bound");
            let value = match kind {
                Fixup::Absolute => target,
                Fixup::Relative => target.wrapping_sub(BASE + at as u32 + 4),
            };
            self.code[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.code
    }

    /// Bytes as they are.
    pub fn emit(&mut self, bytes: &[u8]) -> &mut Self {
        self.code.extend_from_slice(bytes);
        self
    }

    fn dword(&mut self, value: u32) -> &mut Self {
        self.emit(&value.to_le_bytes())
    }

    // Labels and jumps.

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub fn bind(&mut self, label: Label) -> &mut Self {
        self.labels[label.0] = Some(BASE + self.code.len() as u32);
        self
    }

    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    fn refer(&mut self, label: Label, kind: Fixup) -> &mut Self {
        self.fixups.push((self.code.len(), label, kind));
        self.dword(0)
    }

    pub fn jmp(&mut self, to: Label) -> &mut Self {
        self.emit(&[0xe9]).refer(to, Fixup::Relative)
    }

    /// Below, unsigned.
    pub fn jb(&mut self, to: Label) -> &mut Self {
        self.emit(&[0x0f, 0x82]).refer(to, Fixup::Relative)
    }

    /// Not below: no carry.
    pub fn jae(&mut self, to: Label) -> &mut Self {
        self.emit(&[0x0f, 0x83]).refer(to, Fixup::Relative)
    }

    pub fn je(&mut self, to: Label) -> &mut Self {
        self.emit(&[0x0f, 0x84]).refer(to, Fixup::Relative)
    }

    pub fn jne(&mut self, to: Label) -> &mut Self {
        self.emit(&[0x0f, 0x85]).refer(to, Fixup::Relative)
    }

    fn call(&mut self, to: Label) -> &mut Self {
        self.emit(&[0xe8]).refer(to, Fixup::Relative)
    }

    pub fn pause(&mut self) -> &mut Self {
        self.emit(&[0xf3, 0x90])
    }

    /// Here the guest's way ends.
    pub fn hang(&mut self) -> &mut Self {
        let again = self.here();
        self.pause().jmp(again)
    }

    /// Emits `body` so that it runs `count` times; ecx counts down.
    pub fn repeat(&mut self, count: u32, body: impl FnOnce(&mut Self)) -> &mut Self {
        self.mov_ecx(count);
        let again = self.here();
        self.emit(&[0x51]); // push ecx
        body(self);
        self.emit(&[0x59, 0x49]).jne(again) // pop ecx; dec ecx
    }

    // Registers.

    pub fn mov_eax(&mut self, value: u32) -> &mut Self {
        self.emit(&[0xb8]).dword(value)
    }

    pub fn mov_eax_label(&mut self, label: Label) -> &mut Self {
        self.emit(&[0xb8]).refer(label, Fixup::Absolute)
    }

    pub fn mov_ecx(&mut self, value: u32) -> &mut Self {
        self.emit(&[0xb9]).dword(value)
    }

    pub fn mov_edx(&mut self, value: u32) -> &mut Self {
        self.emit(&[0xba]).dword(value)
    }

    pub fn cmp_eax(&mut self, value: u32) -> &mut Self {
        self.emit(&[0x3d]).dword(value)
    }

    // Memory.

    /// eax takes what is at `address`, extended with zeroes.
    pub fn load(&mut self, width: Width, address: u32) -> &mut Self {
        match width {
            Width::Byte => self.mov_eax(0).emit(&[0xa0]),
            Width::Word => self.mov_eax(0).emit(&[0x66, 0xa1]),
            Width::Dword => self.emit(&[0xa1]),
        };
        self.dword(address)
    }

    pub fn load32(&mut self, address: u32) -> &mut Self {
        self.load(Width::Dword, address)
    }

    pub fn store(&mut self, width: Width, address: u32, value: u32) -> &mut Self {
        let bytes = value.to_le_bytes();
        match width {
            Width::Byte => self.emit(&[0xc6, 0x05]).dword(address).emit(&bytes[..1]),
            Width::Word => self
                .emit(&[0x66, 0xc7, 0x05])
                .dword(address)
                .emit(&bytes[..2]),
            Width::Dword => self.emit(&[0xc7, 0x05]).dword(address).emit(&bytes),
        }
    }

    pub fn store32(&mut self, address: u32, value: u32) -> &mut Self {
        self.store(Width::Dword, address, value)
    }

    pub fn store_eax(&mut self, address: u32) -> &mut Self {
        self.emit(&[0xa3]).dword(address)
    }

    /// Adds one to the dword at `address`.
    pub fn inc32(&mut self, address: u32) -> &mut Self {
        self.emit(&[0xff, 0x05]).dword(address)
    }

    /// The same as one step for all processors.
    pub fn lock_inc32(&mut self, address: u32) -> &mut Self {
        self.emit(&[0xf0]).inc32(address)
    }

    // Ports.

    pub fn out(&mut self, width: Width, port: u16, value: u32) -> &mut Self {
        self.mov_eax(value).mov_edx(port.into());
        match width {
            Width::Byte => self.emit(&[0xee]),
            Width::Word => self.emit(&[0x66, 0xef]),
            Width::Dword => self.emit(&[0xef]),
        }
    }

    pub fn input(&mut self, width: Width, port: u16) -> &mut Self {
        self.mov_eax(0).mov_edx(port.into());
        match width {
            Width::Byte => self.emit(&[0xec]),
            Width::Word => self.emit(&[0x66, 0xed]),
            Width::Dword => self.emit(&[0xed]),
        }
    }

    pub fn outb(&mut self, port: u16, value: u8) -> &mut Self {
        self.out(Width::Byte, port, value.into())
    }

    // Talking to the test.

    /// Text to the serial port.
    pub fn print(&mut self, text: &str) -> &mut Self {
        self.mov_edx(COM1.into());
        for byte in text.bytes() {
            self.emit(&[0xb0, byte, 0xee]); // mov al, byte; out dx, al
        }
        self
    }

    /// eax in eight hexadecimal digits and a newline. Registers stay.
    pub fn print_eax(&mut self) -> &mut Self {
        self.call(self.print_hex)
    }

    /// Waits for a character on the serial port and takes it.
    pub fn wait_key(&mut self) -> &mut Self {
        let again = self.here();
        self.pause();
        // test al, 1 (data ready)
        self.input(Width::Byte, COM1_STATUS).emit(&[0xa8, 0x01]);
        self.je(again);
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
        self.emit(&[0x0f, 0x0b]) // ud2
    }

    fn print_hex_routine(&mut self) {
        self.emit(&[0x60, 0x89, 0xc3]); // pushad; mov ebx, eax
        self.mov_ecx(8).mov_edx(COM1.into());
        let again = self.here();
        self.emit(&[0xc1, 0xc3, 0x04]); // rol ebx, 4
        self.emit(&[0x88, 0xd8, 0x24, 0x0f]); // mov al, bl; and al, 15
        self.emit(&[0x04, b'0', 0x3c, b'9']); // add al, '0'; cmp al, '9'
        self.emit(&[0x76, 0x02, 0x04, b'a' - b'9' - 1]); // jbe +2; add al, ...
        self.emit(&[0xee, 0x49]).jne(again); // out dx, al; dec ecx
        self.emit(&[0xb0, b'\n', 0xee, 0x61, 0xc3]); // newline; popad; ret
    }
}
