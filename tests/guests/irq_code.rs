//! What guests do with interrupts, as extensions of the assembler: an IDT, handlers that count,
//! the local APIC, MSI and MSI-X.

use iced_x86::code_asm::{ax, cr0, ds, dword_ptr, eax, ecx, es, esp, ptr, ss};
use iced_x86::{Code, Instruction};

use crate::common::asm::{Asm, Label, Width, real_mode};
use crate::device::{MSI, MSIX, TABLE};
use crate::pci::SLOT;

const IDT: u32 = 0x8_0000;
/// The boot GDT's code segment.
const CODE_SEGMENT: u32 = 0x10;
/// A present 32-bit interrupt gate (SDM volume 3A, figure 6-2).
const INTERRUPT_GATE: u32 = 0x8e00;
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
/// How long a guest waits for an interrupt that must not come. A raised interrupt is in the local
/// APIC earlier than that, as the tests of interrupts that come show.
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

/// Real-mode code, for the start of a page, that enters the flat mode of the boot protocols. The
/// operand of LGDT is at 0x20. The offset of the jump is set where the code is stored.
fn trampoline() -> Vec<u8> {
    const PROTECTED_MODE: u32 = 0x11;
    real_mode(|a| {
        a.cli()?;
        a.lgdt(ptr(0x20).cs())?;
        a.mov(eax, PROTECTED_MODE)?;
        a.mov(cr0, eax)?;
        // A 32-bit offset, which `jmp_far` does not take in 16-bit code.
        let target = Instruction::with_far_branch(Code::Jmp_ptr1632, CODE_SEGMENT as u16, 0)?;
        a.add_instruction(target)
    })
}

impl Asm {
    /// Takes interrupts with these vectors, each of which counts.
    pub fn interrupts(&mut self, vectors: &[u8]) -> &mut Self {
        for vector in vectors {
            self.handler(*vector, counter(*vector));
        }
        self.store(Width::Word, IDT - 8, 0x7ff)
            .store32(IDT - 6, IDT);
        self.take_interrupts()
    }

    /// Lets the local APIC take messages.
    pub fn local_apic_on(&mut self) -> &mut Self {
        self.store32(APIC_SPURIOUS, APIC_ENABLE)
    }

    /// Waits until the local APIC has accepted a vector; the processor may have interrupts off (SDM
    /// volume 3A, 11.8.4).
    pub fn await_request(&mut self, vector: u8) -> &mut Self {
        let again = self.here();
        self.pause()
            .load32(APIC_REQUESTS + 0x10 * u32::from(vector / 32));
        self.code(|a| a.bt(eax, u32::from(vector % 32))).jae(again)
    }

    /// Sends the other processors to `entry`, each with a number from 1 on in eax, in the same flat
    /// mode and with a stack of its own. The dword at `count` counts them.
    pub fn start_others(&mut self, entry: Label, count: u32) -> &mut Self {
        let (after, flat) = (self.label(), self.label());
        self.jmp(after).bind(flat);
        self.code(|a| {
            a.mov(eax, DATA_SEGMENT)?;
            a.mov(ds, ax)?;
            a.mov(es, ax)?;
            a.mov(ss, ax)?;
            // The number, and the stack that belongs to it.
            a.mov(eax, 1)?;
            a.lock().xadd(dword_ptr(count), eax)?;
            a.inc(eax)?;
            a.mov(esp, eax)?;
            a.shl(esp, 12)?;
            a.add(esp, STACKS)
        });
        self.jmp(entry).bind(after);

        let code = trampoline();
        self.store_bytes(TRAMPOLINE, &code);
        // The jump ends in its target: offset and segment.
        let target = TRAMPOLINE + code.len() as u32 - 6;
        self.mov_eax_label(flat).store_eax(target);
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

    /// A handler that adds one to the dword at `counter`, with its entry in the IDT.
    pub fn handler(&mut self, vector: u8, counter: u32) -> &mut Self {
        self.handler_of(vector, |g| {
            g.inc32(counter);
        })
    }

    /// A handler that does this, with its entry in the IDT.
    pub fn handler_of(&mut self, vector: u8, work: impl FnOnce(&mut Self)) -> &mut Self {
        let (handler, after) = (self.label(), self.label());
        self.jmp(after).bind(handler);
        work(self);
        self.store32(APIC_EOI, 0).leave();
        self.bind(after).idt_entry(vector, handler)
    }

    /// A handler of a level: it stores to `acknowledge`, after which the device lowers or asserts
    /// the pin.
    pub fn level_handler(&mut self, vector: u8, acknowledge: u32) -> &mut Self {
        self.handler_of(vector, |g| {
            g.inc32(counter(vector)).store32(acknowledge, 0);
        })
    }

    /// Lets a pin of the IOAPIC send a vector to processor 0, by level (82093AA, 3.2.4).
    pub fn ioapic_level(&mut self, pin: u32, vector: u8) -> &mut Self {
        const LEVEL: u32 = 1 << 15;
        self.store32(IOAPIC, 0x11 + 2 * pin)
            .store32(IOAPIC + 0x10, 0);
        self.store32(IOAPIC, 0x10 + 2 * pin);
        self.store32(IOAPIC + 0x10, LEVEL | u32::from(vector))
    }

    /// Lets a pin of the IOAPIC send a vector to processor 0, by its edge.
    pub fn ioapic_edge(&mut self, pin: u32, vector: u8) -> &mut Self {
        self.ioapic_to(pin, 0).store32(IOAPIC, 0x10 + 2 * pin);
        self.store32(IOAPIC + 0x10, vector.into())
    }

    /// Lets a pin of the IOAPIC send to the processor with this APIC ID.
    pub fn ioapic_to(&mut self, pin: u32, id: u8) -> &mut Self {
        self.store32(IOAPIC, 0x11 + 2 * pin)
            .store32(IOAPIC + 0x10, u32::from(id) << 24)
    }

    /// Makes this processor, which has a stack, take interrupts by the handlers that are there.
    pub fn take_interrupts(&mut self) -> &mut Self {
        self.code(|a| a.lidt(ptr(IDT - 8))).local_apic_on().sti()
    }

    /// Does what iret does, in steps: some hosts run whole guests in KVM's emulator, which knows
    /// iret in real mode only. The flags are restored just before the return, so that an interrupt
    /// which they allow finds a valid stack.
    fn leave(&mut self) -> &mut Self {
        self.code(|a| {
            a.push(eax)?;
            a.push(ecx)?;
            // The address, then the flags.
            a.mov(eax, dword_ptr(esp + 8))?;
            a.mov(ecx, dword_ptr(esp + 16))?;
            a.mov(dword_ptr(esp + 16), eax)?;
            a.mov(dword_ptr(esp + 12), ecx)?;
            a.pop(ecx)?;
            a.pop(eax)?;
            a.add(esp, 4)?;
            a.popfd()?;
            a.ret()
        })
    }

    fn idt_entry(&mut self, vector: u8, handler: Label) -> &mut Self {
        let entry = IDT + 8 * u32::from(vector);
        // The offset's halves are at both ends of the entry.
        self.mov_eax_label(handler)
            .store_eax(entry)
            .store_eax(entry + 4);
        self.store(Width::Word, entry + 2, CODE_SEGMENT);
        self.store(Width::Word, entry + 4, INTERRUPT_GATE)
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

    /// Lets a table entry send to the processor with this APIC ID (SDM volume 3A, 11.11.1).
    pub fn message_to(&mut self, entry: u32, id: u8) -> &mut Self {
        self.store32(TABLE + 16 * entry, MESSAGE_ADDRESS | u32::from(id) << 12)
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
