//! The programs that keep what a call says, in the kernel, so that its thread need not stop: one at
//! the start of system calls and one at their end (the tracepoints `sys_enter` and `sys_exit`).
//! They keep KVM_RUN, with what the vCPU's page says then, and KVM_IRQ_LINE.
//!
//! What a program cannot read, or has no room for, stops the thread at the end of the call, before
//! the thread does anything else: by a SIGSTOP that the tracer takes away again. No thread can
//! block or ignore that signal.

use crate::guest::access::MOST_DATA;
use crate::guest::ring::{ENTRIES, ENTRY, HEADER};
use crate::guest::run_page::{ANSWER, DATA, HEAD, IO, REASON, RING};
use crate::kernel::code::{Code, Do, Function, If, Label, Register, STACK};
use crate::sys::bpf::Instruction;

/// The commands of ioctl(2) that are kept.
pub const KEPT: [u32; 3] = [RUN, IRQ_LINE, IRQ_LINE_STATUS];
pub const RUN: u32 = 0xae80;
const IRQ_LINE: u32 = 0x4008_ae61;
const IRQ_LINE_STATUS: u32 = 0xc008_ae67;

/// What a record has, and whether the thread stops after it.
pub const AT_END: u64 = 1 << 0;
pub const HAS_HEAD: u64 = 1 << 1;
pub const HAS_DATA: u64 = 1 << 2;
pub const HAS_RING: u64 = 1 << 3;
pub const HAS_ENTRIES: u64 = 1 << 4;
/// The record is of the ring's whole page, and belongs to the thread's next one.
pub const WHOLE_RING: u64 = 1 << 5;
/// Something could not be read.
pub const LACKS: u64 = 1 << 6;
/// The thread stops.
pub const STOPS: u64 = 1 << 7;
/// There was no room for the start of a call of the process.
pub const LOST: u64 = 1 << 8;

/// Offsets in a record: numbers of eight bytes, and what was read.
pub const TIME: usize = 0;
pub const THREAD: usize = 8;
pub const FLAGS: usize = 16;
pub const COMMAND: usize = 24;
pub const FD: usize = 32;
pub const ARGUMENT: usize = 40;
pub const RESULT: usize = 48;
pub const PAGE: usize = 56;
pub const FIRST: usize = 64;
/// When the reading of the ring began.
pub const SINCE: usize = 72;
pub const BODY: usize = 80;
/// Offsets in the body: the head of the page, the data of ports, the ring's header and some of its
/// entries, from the number at [`FIRST`] on.
pub const DATA_AT: usize = BODY + HEAD;
pub const RING_AT: usize = DATA_AT + MOST_DATA;
pub const ENTRIES_AT: usize = RING_AT + HEADER;
/// Entries that a record has room for. If there are more new ones, a record of the whole page is
/// made first.
pub const SOME: u32 = 8;

/// Bytes of records.
const AT_START: usize = RING_AT;
const WHOLE: usize = ENTRIES_AT + SOME as usize * ENTRY;
const RING_PAGE: usize = BODY + 4096;
const LINE: usize = BODY + LINE_BYTES;
/// Bytes of `struct kvm_irq_level`.
pub const LINE_BYTES: usize = 8;

/// Offsets in a page's entry, behind the page's address: whether the mapping has the ring, the
/// entry of the ring that comes next, and the reason of the last exit.
const HAS: i16 = 8;
const NEXT: i16 = 16;
const LAST: i16 = 24;

/// A page's key has a process, or a thread with this bit, and the descriptor.
pub const OF_THREAD: u32 = 1 << 31;

/// The registers from `rdx` to `orig_rax` in `struct pt_regs` (arch/x86/include/asm/ptrace.h).
const REGISTERS: i32 = 96;
/// Offsets on the stack: those registers, the value of the call, the keys of the tables, and the
/// ring's header.
const RDX: i16 = -32;
const RSI: i16 = -24;
const RDI: i16 = -16;
const NUMBER: i16 = -8;
const VALUE: i16 = -40;
const PROCESS: i16 = -48;
const KEY: i16 = -56;
const RING_HEADER: i16 = -64;
const FROM: i16 = -72;
/// The address of the process's entry. The entry is [`ALL`], or [`NOT_ALL`] if there was no room
/// for a start.
const PROCESS_AT: i16 = -80;
/// When the reading of the ring began.
const BEGAN: i16 = -88;
pub const ALL: u64 = 1;
const NOT_ALL: u64 = 2;

/// BPF_RB_NO_WAKEUP: nobody waits for a record.
const NO_WAKEUP: i32 = 1;

/// Registers that outlive calls: the program's argument and then the record, the thread, the flags,
/// and the page's entry.
const CONTEXT: Register = 6;
const RECORD: Register = 6;
const TID: Register = 7;
const HAVE: Register = 8;
const ENTRY_AT: Register = 9;

/// What the programs work on, by numbers of descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    /// The records.
    pub records: i32,
    /// The bytes of records that may wait. With more, each thread stops.
    pub most: i32,
    /// The traced processes.
    pub processes: i32,
    /// The vCPUs' pages, by process or thread, and descriptor.
    pub pages: i32,
}

/// A program that is being written.
struct Writer<'a> {
    code: Code,
    maps: &'a Maps,
    /// The end of the program.
    out: Label,
}

/// The program for the start of calls.
pub fn at_start(maps: &Maps) -> Vec<Instruction> {
    let (mut w, line) = Writer::begin(maps, false);
    let [done, unread, lost] = [(); 3].map(|()| w.code.label());
    w.reserve_or(AT_START, lost);
    w.code.jump_if(ENTRY_AT, If::Equal, 0, done);
    w.read(BODY, ANSWER, |code| code.load(3, ENTRY_AT, 0), done);
    w.code.with(HAVE, Do::Or, HAS_HEAD as i32);
    w.code.load(1, ENTRY_AT, LAST);
    w.code.jump_if(1, If::Differs, IO as i32, done);
    w.read(DATA_AT, MOST_DATA, |code| in_page(code, DATA), done);
    w.code.with(HAVE, Do::Or, HAS_DATA as i32);
    w.code.here(done);
    w.finish(false);
    w.code.jump(w.out);

    w.code.here(line);
    w.reserve_or(LINE, lost);
    w.read(BODY, LINE_BYTES, |code| code.load(3, STACK, RDX), unread);
    w.code.with(HAVE, Do::Or, HAS_HEAD as i32);
    w.code.here(unread);
    w.finish(false);
    w.code.jump(w.out);

    w.code.here(lost);
    w.code.load(1, STACK, PROCESS_AT);
    w.code.store_number(1, 0, NOT_ALL as i32);
    w.end()
}

/// The program for the end of calls.
pub fn at_end(maps: &Maps) -> Vec<Instruction> {
    let (mut w, line) = Writer::begin(maps, true);
    let [known, lacks, has, all, done, goes_on] = [(); 6].map(|()| w.code.label());
    w.code.jump_if(ENTRY_AT, If::Equal, 0, known);
    w.ring(known);
    w.code.here(known);
    w.reserve(WHOLE);
    w.code.jump_if(ENTRY_AT, If::Equal, 0, lacks);
    w.read(BODY, HEAD, |code| code.load(3, ENTRY_AT, 0), lacks);
    w.code.with(HAVE, Do::Or, HAS_HEAD as i32);
    w.code.load(1, STACK, RING_HEADER);
    w.code.store(RECORD, RING_AT as i16, 1);
    for (at, from) in [(FIRST, FROM), (SINCE, BEGAN)] {
        w.code.load(1, STACK, from);
        w.code.store(RECORD, at as i16, 1);
    }
    w.code.jump_if(HAVE, If::Has, HAS_ENTRIES as i32, has);
    w.code.jump(all);
    w.code.here(has);
    w.read(ENTRIES_AT, SOME as usize * ENTRY, entries, lacks);
    w.code.here(all);
    w.code.load_half(1, RECORD, (BODY + REASON) as i16);
    w.code.store(ENTRY_AT, LAST, 1);
    w.code.jump_if(1, If::Differs, IO as i32, done);
    w.read(DATA_AT, MOST_DATA, |code| in_page(code, DATA), lacks);
    w.code.with(HAVE, Do::Or, HAS_DATA as i32);
    w.code.jump(done);

    w.code.here(line);
    w.reserve(LINE);
    w.read(BODY, LINE_BYTES, |code| code.load(3, STACK, RDX), lacks);
    w.code.with(HAVE, Do::Or, HAS_HEAD as i32);
    w.code.jump(done);

    w.code.here(lacks);
    w.code.with(HAVE, Do::Or, LACKS as i32);
    w.code.here(done);
    w.stop_if_needed();
    w.finish(true);
    w.code.jump_if(HAVE, If::Has, STOPS as i32, goes_on);
    w.code.jump(w.out);
    w.code.here(goes_on);
    w.code.with(1, Do::Move, libc::SIGSTOP);
    w.code.call(Function::Signal);
    w.end()
}

/// The address of a part of the vCPU's mapping, in r3.
fn in_page(code: &mut Code, offset: u64) {
    code.load(3, ENTRY_AT, 0);
    code.with(3, Do::Add, offset as i32);
}

/// The address of the ring's entries from [`FROM`] on, in r3.
fn entries(code: &mut Code) {
    in_page(code, RING + HEADER as u64);
    code.load(4, STACK, FROM);
    code.with(4, Do::Mul, ENTRY as i32);
    code.by(3, Do::Add, 4);
}

impl<'a> Writer<'a> {
    /// Leaves all calls but those that are kept, of traced processes. Goes on with KVM_RUN, or at
    /// the returned label with KVM_IRQ_LINE.
    fn begin(maps: &'a Maps, at_end: bool) -> (Self, Label) {
        let mut code = Code::default();
        let [out, kept, line, run] = [(); 4].map(|()| code.label());
        let ioctl = libc::SYS_ioctl as i32;
        // The arguments of both tracepoints: the registers, and the call's number or value
        // (include/trace/events/syscalls.h).
        code.by(CONTEXT, Do::Move, 1);
        code.load(1, CONTEXT, 8);
        match at_end {
            true => code.store(STACK, VALUE, 1),
            false => code.jump_if(1, If::Differs, ioctl, out),
        }
        code.load(3, CONTEXT, 0);
        code.with(3, Do::Add, REGISTERS);
        code.stack(1, RDX.into());
        code.with(2, Do::Move, (NUMBER + 8 - RDX).into());
        code.call(Function::ReadKernel);
        if at_end {
            code.load(1, STACK, NUMBER);
            code.jump_if(1, If::Differs, ioctl, out);
        }
        code.load_half(HAVE, STACK, RSI);
        for command in KEPT {
            code.jump_if_half(HAVE, If::Equal, command.cast_signed(), kept);
        }
        code.jump(out);
        code.here(kept);
        code.call(Function::Thread);
        code.by(TID, Do::Move, 0);
        code.with(0, Do::Shift, 32);
        code.store_half(STACK, PROCESS, 0);
        code.store_half(STACK, KEY, 0);
        code.load_half(1, STACK, RDI);
        code.store_half(STACK, KEY + 4, 1);
        let mut writer = Self { code, maps, out };
        writer.look_up(maps.processes, PROCESS);
        let code = &mut writer.code;
        code.jump_if(0, If::Equal, 0, out);
        code.store(STACK, PROCESS_AT, 0);
        for at in [RING_HEADER, FROM, BEGAN] {
            code.store_number(STACK, at, 0);
        }
        code.with(ENTRY_AT, Do::Move, 0);
        code.jump_if_half(HAVE, If::Equal, RUN.cast_signed(), run);
        code.with(HAVE, Do::Move, if at_end { AT_END as i32 } else { 0 });
        code.jump(line);
        code.here(run);
        let found = writer.code.label();
        writer.look_up(maps.pages, KEY);
        writer.code.by(ENTRY_AT, Do::Move, 0);
        writer.code.jump_if(ENTRY_AT, If::Differs, 0, found);
        writer.code.by(1, Do::Move, TID);
        writer.code.with_half(1, Do::Or, OF_THREAD.cast_signed());
        writer.code.store_half(STACK, KEY, 1);
        writer.look_up(maps.pages, KEY);
        writer.code.by(ENTRY_AT, Do::Move, 0);
        writer.code.here(found);
        let flags = if at_end { AT_END as i32 } else { 0 };
        writer.code.with(HAVE, Do::Move, flags);
        (writer, line)
    }

    fn look_up(&mut self, map: i32, key: i16) {
        self.code.map(1, map);
        self.code.stack(2, key.into());
        self.code.call(Function::Lookup);
    }

    /// Begins a record, and gives up without room.
    fn reserve(&mut self, size: usize) {
        self.reserve_or(size, self.out);
    }

    fn reserve_or(&mut self, size: usize, without: Label) {
        self.code.map(1, self.maps.records);
        self.code.with(2, Do::Move, size as i32);
        self.code.with(3, Do::Move, 0);
        self.code.call(Function::Reserve);
        self.code.jump_if(0, If::Equal, 0, without);
        self.code.by(RECORD, Do::Move, 0);
    }

    /// Reads the program's memory at r3 into the record.
    fn read(&mut self, to: usize, size: usize, from: impl FnOnce(&mut Code), failed: Label) {
        from(&mut self.code);
        self.code.by(1, Do::Move, RECORD);
        self.code.with(1, Do::Add, to as i32);
        self.code.with(2, Do::Move, size as i32);
        self.code.call(Function::ReadUser);
        self.code.jump_if(0, If::Differs, 0, failed);
    }

    /// Looks which entries of the ring are new since the vCPU's last exit.
    fn ring(&mut self, known: Label) {
        let [failed, whole, some, read] = [(); 4].map(|()| self.code.label());
        let code = &mut self.code;
        code.load(1, ENTRY_AT, HAS);
        code.jump_if(1, If::Equal, 0, known);
        code.call(Function::Time);
        code.store(STACK, BEGAN, 0);
        in_page(code, RING);
        code.stack(1, RING_HEADER.into());
        code.with(2, Do::Move, HEADER as i32);
        code.call(Function::ReadUser);
        code.jump_if(0, If::Differs, 0, failed);
        code.with(HAVE, Do::Or, HAS_RING as i32);
        code.load_half(1, STACK, RING_HEADER + 4);
        code.load(2, ENTRY_AT, NEXT);
        code.jump_by(1, If::Equal, 2, known);
        code.store(ENTRY_AT, NEXT, 1);
        code.jump_by(1, If::Below, 2, whole);
        code.by(1, Do::Sub, 2);
        code.jump_if(1, If::Above, SOME as i32, whole);
        code.jump_if(2, If::Below, (ENTRIES - SOME) as i32, some);
        code.with(2, Do::Move, (ENTRIES - SOME) as i32);
        code.here(some);
        code.store(STACK, FROM, 2);
        code.with(HAVE, Do::Or, HAS_ENTRIES as i32);
        code.jump(known);
        code.here(whole);
        self.reserve_or(RING_PAGE, failed);
        self.code
            .store_number(RECORD, FLAGS as i16, WHOLE_RING as i32);
        self.code.store(RECORD, THREAD as i16, TID);
        self.code.load(1, ENTRY_AT, 0);
        self.code.store(RECORD, PAGE as i16, 1);
        self.read(BODY, 4096, |code| in_page(code, RING), read);
        self.submit();
        self.code.jump(known);
        self.code.here(read);
        self.code.store_number(RECORD, FLAGS as i16, LACKS as i32);
        self.submit();
        self.code.here(failed);
        self.code.with(HAVE, Do::Or, LACKS as i32);
    }

    /// A thread stops if its record lacks something, and if many records wait.
    fn stop_if_needed(&mut self) {
        let [all, stops, goes_on] = [(); 3].map(|()| self.code.label());
        self.code.load(1, STACK, PROCESS_AT);
        self.code.load(2, 1, 0);
        self.code.jump_if(2, If::Differs, NOT_ALL as i32, all);
        self.code.store_number(1, 0, ALL as i32);
        self.code.with(HAVE, Do::Or, LOST as i32);
        self.code.here(all);
        self.code.jump_if(HAVE, If::Has, LACKS as i32, stops);
        self.code.map(1, self.maps.records);
        // BPF_RB_AVAIL_DATA
        self.code.with(2, Do::Move, 0);
        self.code.call(Function::Query);
        self.code.jump_if(0, If::Above, self.maps.most, stops);
        self.code.jump(goes_on);
        self.code.here(stops);
        self.code.with(HAVE, Do::Or, STOPS as i32);
        self.code.here(goes_on);
    }

    /// Fills the numbers of the record, and hands the record over.
    fn finish(&mut self, at_end: bool) {
        let none = self.code.label();
        let code = &mut self.code;
        code.call(Function::Time);
        for (at, register) in [(TIME, 0), (THREAD, TID), (FLAGS, HAVE)] {
            code.store(RECORD, at as i16, register);
        }
        for (at, from) in [(COMMAND, RSI), (FD, RDI), (ARGUMENT, RDX)] {
            code.load(1, STACK, from);
            code.store(RECORD, at as i16, 1);
        }
        if at_end {
            code.load(1, STACK, VALUE);
            code.store(RECORD, RESULT as i16, 1);
        }
        code.with(1, Do::Move, 0);
        code.jump_if(ENTRY_AT, If::Equal, 0, none);
        code.load(1, ENTRY_AT, 0);
        code.here(none);
        code.store(RECORD, PAGE as i16, 1);
        self.submit();
    }

    fn submit(&mut self) {
        self.code.by(1, Do::Move, RECORD);
        self.code.with(2, Do::Move, NO_WAKEUP);
        self.code.call(Function::Submit);
    }

    fn end(mut self) -> Vec<Instruction> {
        self.code.here(self.out);
        self.code.end()
    }
}
