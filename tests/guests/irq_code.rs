//! What guests do with interrupts, as extensions of the assembler: an IDT, handlers that count,
//! the local APIC, MSI and MSI-X.

use crate::common::asm::{Asm, Label, Width};
use crate::device::{MSI, MSIX, TABLE};
use crate::pci::SLOT;

const IDT: u32 = 0x8_0000;
/// The boot GDT's code segment.
const CODE_SEGMENT: u32 = 0x10;
/// A present 32-bit interrupt gate (SDM volume 3A, figure 6-2).
const GATE: u32 = 0x8e00;
const IOAPIC: u32 = 0xfec0_0000;
const APIC_EOI: u32 = 0xfee0_00b0;
const APIC_SPURIOUS: u32 = 0xfee0_00f0;
const APIC_ENABLE: u32 = 0x1ff;
/// Messages to processor 0 (SDM volume 3A, 11.11.1).
pub const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
const APIC_REQUESTS: u32 = 0xfee0_0200;
const APIC_COMMAND: u32 = 0xfee0_0300;
const DATA_SEGMENT: u32 = 0x18;
/// A page below 1 MiB, where processors start.
const TRAMPOLINE: u32 = 0x8000;
/// Stacks of the other processors, a page each.
const STACKS: u32 = 0x6_0000;
const COUNTERS: u32 = 0x7_0000;
/// MSI-X Message Control.
pub const ENABLE: u32 = 0x8000;
pub const FUNCTION_MASK: u32 = 0x4000;
/// MSI Message Control: enabled; a 64-bit address; a mask and a pending bit for each message.
pub const MSI_ENABLE: u16 = 1;
pub const MSI_64: u16 = 1 << 7;
pub const MSI_MASKING: u16 = 1 << 8;
/// How long a guest waits for an interrupt that must not come. What has been raised is in the local
/// APIC before this has passed, as the tests of interrupts that do come show.
const PATIENCE: u32 = 20_000;

/// Where the handler of a vector counts.
pub fn counter(vector: u8) -> u32 {
    COUNTERS + 4 * u32::from(vector)
}

/// Multiple Message Enable for 2^`log` messages.
pub const fn group(log: u16) -> u16 {
    log << 4
}

/// The data register of a capability with this Message Control.
fn msi_data(control: u16) -> u16 {
    MSI + if control & MSI_64 != 0 { 12 } else { 8 }
}

/// The register of the pending bits; the mask bits are before it.
pub fn msi_pending(control: u16) -> u16 {
    msi_data(control) + 8
}

impl Asm {
    /// Takes interrupts with these vectors, each of which counts.
    pub fn interrupts(&mut self, vectors: &[u8]) -> &mut Self {
        for vector in vectors {
            self.handler(*vector, counter(*vector));
        }
        self.store(Width::Word, IDT - 8, 0x7ff)
            .store32(IDT - 6, IDT);
        // lidt [IDT - 8]
        self.emit(&[0x0f, 0x01, 0x1d])
            .emit(&(IDT - 8).to_le_bytes());
        self.local_apic_on().emit(&[0xfb]) // sti
    }

    /// Lets the local APIC take messages.
    pub fn local_apic_on(&mut self) -> &mut Self {
        self.store32(APIC_SPURIOUS, APIC_ENABLE)
    }

    /// Waits until the local APIC has taken a vector, which the processor need not (SDM volume 3A,
    /// 11.8.4).
    pub fn await_request(&mut self, vector: u8) -> &mut Self {
        let again = self.here();
        self.pause()
            .load32(APIC_REQUESTS + 0x10 * u32::from(vector / 32));
        // bt eax, vector
        self.emit(&[0x0f, 0xba, 0xe0, vector % 32]).jae(again)
    }

    /// Sends the other processors to `entry`, each with a number from 1 on in eax, in the same flat
    /// mode and with a stack of its own. The dword at `count` counts them.
    pub fn start_others(&mut self, entry: Label, count: u32) -> &mut Self {
        let (after, flat) = (self.label(), self.label());
        self.jmp(after).bind(flat);
        // mov eax, DATA_SEGMENT; mov ds, ax; mov es, ax; mov ss, ax
        self.mov_eax(DATA_SEGMENT);
        self.emit(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]);
        // lock xadd [count], eax; inc eax
        self.mov_eax(1).emit(&[0xf0, 0x0f, 0xc1, 0x05]);
        self.emit(&count.to_le_bytes()).emit(&[0x40]);
        // mov esp, eax; shl esp, 12; add esp, STACKS
        self.emit(&[0x89, 0xc4, 0xc1, 0xe4, 0x0c, 0x81, 0xc4]);
        self.emit(&STACKS.to_le_bytes()).jmp(entry);
        self.bind(after);

        // In real mode, at the start of a page: cli; lgdt cs:[0x20]; mov eax, 0x11; mov cr0, eax;
        // jmp far CODE_SEGMENT:flat.
        let code: [u8; 19] = [
            0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x20, 0x00, 0x66, 0xb8, 0x11, 0x00, 0x00, 0x00,
            0x0f, 0x22, 0xc0, 0x66, 0xea,
        ];
        for (at, byte) in (TRAMPOLINE..).zip(code) {
            self.store(Width::Byte, at, byte.into());
        }
        let far = TRAMPOLINE + code.len() as u32;
        self.mov_eax_label(flat).store_eax(far);
        self.store(Width::Word, far + 4, CODE_SEGMENT);
        // The table of segments: flat code and data where the boot protocols have them.
        let table = TRAMPOLINE + 0x30;
        self.store(Width::Word, TRAMPOLINE + 0x20, 0x1f);
        self.store32(TRAMPOLINE + 0x22, table);
        for (at, high) in [(CODE_SEGMENT, 0x00cf_9b00), (DATA_SEGMENT, 0x00cf_9300)] {
            self.store32(table + at, 0xffff)
                .store32(table + at + 4, high);
        }
        // INIT and start-up to all but this one (SDM volume 3A, 11.6.1).
        self.store32(APIC_COMMAND, 0x000c_4500);
        self.repeat(PATIENCE, |g| {
            g.pause();
        });
        self.store32(APIC_COMMAND, 0x000c_4600 | TRAMPOLINE >> 12)
    }

    /// A handler that adds one to the dword at `counter`, with its gate in the IDT.
    pub fn handler(&mut self, vector: u8, counter: u32) -> &mut Self {
        let (handler, after) = (self.label(), self.label());
        self.jmp(after).bind(handler);
        self.inc32(counter).store32(APIC_EOI, 0).leave();
        self.bind(after).gate(vector, handler)
    }

    /// A handler of a level: it stores to `serve`, and the device asks no more or asks again.
    pub fn level_handler(&mut self, vector: u8, serve: u32) -> &mut Self {
        let (handler, after) = (self.label(), self.label());
        self.jmp(after).bind(handler);
        self.inc32(counter(vector)).store32(serve, 0);
        self.store32(APIC_EOI, 0).leave();
        self.bind(after).gate(vector, handler)
    }

    /// Lets a pin of the IOAPIC send a vector to processor 0, by level (82093AA, 3.2.4).
    pub fn ioapic_level(&mut self, pin: u32, vector: u8) -> &mut Self {
        const LEVEL: u32 = 1 << 15;
        self.store32(IOAPIC, 0x11 + 2 * pin)
            .store32(IOAPIC + 0x10, 0);
        self.store32(IOAPIC, 0x10 + 2 * pin);
        self.store32(IOAPIC + 0x10, LEVEL | u32::from(vector))
    }

    /// What iret does, in steps: KVM's emulator, which some hosts run whole guests with, knows iret
    /// in real mode only. The flags come last but for the address, so that an interrupt which they
    /// let in finds a sound stack.
    fn leave(&mut self) -> &mut Self {
        self.emit(&[0x50, 0x51]); // push eax; push ecx
        self.emit(&[0x8b, 0x44, 0x24, 0x08]); // mov eax, [esp + 8] (the address)
        self.emit(&[0x8b, 0x4c, 0x24, 0x10]); // mov ecx, [esp + 16] (the flags)
        self.emit(&[0x89, 0x44, 0x24, 0x10]); // mov [esp + 16], eax
        self.emit(&[0x89, 0x4c, 0x24, 0x0c]); // mov [esp + 12], ecx
        self.emit(&[0x59, 0x58, 0x83, 0xc4, 0x04]); // pop ecx; pop eax; add esp, 4
        self.emit(&[0x9d, 0xc3]) // popfd; ret
    }

    fn gate(&mut self, vector: u8, handler: Label) -> &mut Self {
        let gate = IDT + 8 * u32::from(vector);
        // The offset's halves are at both ends of the gate.
        self.mov_eax_label(handler)
            .store_eax(gate)
            .store_eax(gate + 4);
        self.store(Width::Word, gate + 2, CODE_SEGMENT);
        self.store(Width::Word, gate + 4, GATE)
    }

    /// Waits until a vector has come so many times.
    pub fn await_count(&mut self, vector: u8, count: u32) -> &mut Self {
        let again = self.here();
        self.pause()
            .load32(counter(vector))
            .cmp_eax(count)
            .jb(again)
    }

    /// Waits long enough for an interrupt, then prints a vector's count.
    pub fn show_count(&mut self, vector: u8) -> &mut Self {
        self.repeat(PATIENCE, |g| {
            g.pause();
        });
        self.show(counter(vector))
    }

    /// Begins to count anew.
    pub fn clear_counts(&mut self, vectors: impl IntoIterator<Item = u8>) -> &mut Self {
        for vector in vectors {
            self.store32(counter(vector), 0);
        }
        self
    }

    /// Writes Message Control of MSI.
    pub fn msi_control(&mut self, value: u16) -> &mut Self {
        self.cfg_write(SLOT, MSI + 2, Width::Word, value.into())
    }

    /// Sets the message of an MSI capability with this Message Control.
    pub fn msi_message(&mut self, control: u16, data: u32) -> &mut Self {
        self.cfg_write(SLOT, MSI + 4, Width::Dword, MESSAGE_ADDRESS);
        if control & MSI_64 != 0 {
            self.cfg_write(SLOT, MSI + 8, Width::Dword, 0);
        }
        self.cfg_write(SLOT, msi_data(control), Width::Word, data)
    }

    /// Writes the mask bits of such a capability.
    pub fn msi_mask(&mut self, control: u16, mask: u32) -> &mut Self {
        self.cfg_write(SLOT, msi_data(control) + 4, Width::Dword, mask)
    }

    /// Writes Message Control of MSI-X.
    pub fn msix_control(&mut self, value: u32) -> &mut Self {
        self.cfg_write(SLOT, MSIX + 2, Width::Word, value)
    }

    /// Sets what a table entry sends, and unmasks it.
    pub fn unmask_with(&mut self, entry: u32, vector: u8) -> &mut Self {
        let at = TABLE + 16 * entry;
        self.store32(at, MESSAGE_ADDRESS).store32(at + 4, 0);
        self.store32(at + 8, vector.into()).unmask(entry)
    }

    pub fn unmask(&mut self, entry: u32) -> &mut Self {
        self.store32(TABLE + 16 * entry + 12, 0)
    }

    pub fn mask(&mut self, entry: u32) -> &mut Self {
        self.store32(TABLE + 16 * entry + 12, 1)
    }
}
