//! Makes the filter of each kind of thread from the tables, as a program of classic BPF
//! (Documentation/networking/filter.rst), while mini-vmm is compiled.
//!
//! The kernel translates a program each time that a thread installs it, and asks it once about each
//! number of a call whether that call is allowed whatever its arguments are. So a program is short,
//! and finds a number by halving. ioctl comes first: it is the call of a vCPU.

use libc::sock_filter;

use super::calls::{CALLS, Call, Check};
use super::ioctls::IOCTLS;
use super::kind::Kind;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const INSTRUCTION_LOW: u32 = 8;
pub(super) const INSTRUCTION_HIGH: u32 = 12;
pub(super) const ARGUMENTS: u32 = 16;

/// The calls of 64-bit programs (linux/audit.h, AUDIT_ARCH_X86_64).
pub(super) const X86_64: u32 = 0xc000_003e;

/// The flags of new namespaces (clone(2)).
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// What a new thread must not have.
const NO_THREAD: i32 = NAMESPACES | libc::CLONE_VFORK | libc::CLONE_PARENT | libc::CLONE_PTRACE;
const THREAD: i32 = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;

/// What an open(2) that only reads must not have.
const CHANGES: i32 = libc::O_ACCMODE | MAKES;
/// What an open(2) of what exists must not have. O_TMPFILE is two bits, of which one is another
/// flag.
const MAKES: i32 = libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

pub(super) const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(super) const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
pub(super) const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
pub(super) const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub(super) const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
pub(super) const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
pub(super) const END: u32 = libc::BPF_RET | libc::BPF_K;

/// More instructions than any program has. The compiler refuses a longer one.
const MOST: usize = 512;
/// More than any number of a call, and than the numbers of calls whose arguments are checked.
const NUMBERS: usize = 512;
const CHECKED: usize = 32;

/// What a program does with a number: an entry below `CHECKS`, or `CHECKS` and the index of a call
/// whose arguments are checked.
const REFUSE: usize = 0;
const ALLOW: usize = 1;
const NOT_THERE: usize = 2;
const CHECKS: usize = 3;

/// A program without its last detail: the number of this process.
pub struct Program {
    steps: [sock_filter; MOST],
    length: usize,
    /// The instructions that compare with the number of this process.
    of_process: [usize; 2],
    processes: usize,
}

/// The programs, by the number of the kind.
static PROGRAMS: [Program; Kind::ALL.len()] = {
    let mut programs = [const { Program::EMPTY }; Kind::ALL.len()];
    let mut index = 0;
    while index < programs.len() {
        programs[index] = compile(Kind::ALL[index]);
        index += 1;
    }
    programs
};

/// The filter of a kind of thread of the process with this number. Calls of the instruction before
/// the address `logged`, if there is one, are allowed: the handler of [`super::Mode::Log`] makes
/// the refused calls there.
pub fn program(kind: Kind, process: u32, logged: Option<u64>) -> Vec<sock_filter> {
    let mut steps = logged.map_or_else(Vec::new, head);
    let before = steps.len();
    let program = &PROGRAMS[kind as usize];
    steps.extend_from_slice(&program.steps[..program.length]);
    for at in &program.of_process[..program.processes] {
        steps[before + at].k = process;
    }
    steps
}

/// What the filter of [`super::Mode::Log`] does before the rules.
fn head(address: u64) -> Vec<sock_filter> {
    vec![
        step(LOAD, 0, 0, NUMBER),
        // A handler cannot make this call: the new thread begins on another stack. The kernel logs
        // it instead. clone3 has the same number in each of the kernel's tables of calls.
        step(IF_EQUAL, 0, 1, libc::SYS_clone as u32),
        step(END, 0, 0, libc::SECCOMP_RET_LOG),
        step(IF_EQUAL, 0, 1, libc::SYS_clone3 as u32),
        step(END, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(LOAD, 0, 0, INSTRUCTION_LOW),
        step(IF_EQUAL, 0, 3, address as u32),
        step(LOAD, 0, 0, INSTRUCTION_HIGH),
        step(IF_EQUAL, 0, 1, (address >> 32) as u32),
        step(END, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

pub(super) const fn step(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}

const fn compile(kind: Kind) -> Program {
    let mut program = Program::EMPTY;
    let mut checked = [0; CHECKED];
    let ranges = Ranges::of(kind, &mut checked);
    program.push(LOAD, 0, 0, ARCHITECTURE);
    program.push(IF_EQUAL, 1, 0, X86_64);
    program.push(END, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
    program.push(LOAD, 0, 0, NUMBER);
    program.push(IF_EQUAL, 0, 1, libc::SYS_ioctl as u32);
    let ioctl = program.push(GO, 0, 0, 0);
    // The ranges' ends are behind the halving, in the order of the constants, and within the reach
    // of a jump on a condition.
    let ends = program.length + ranges.length - 1;
    program.halve(&ranges, 0, ranges.length, ends);
    assert!(program.length == ends);
    program.push(END, 0, 0, libc::SECCOMP_RET_TRAP);
    program.push(END, 0, 0, libc::SECCOMP_RET_ALLOW);
    program.push(END, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut index = 0;
    while index < ranges.checked {
        program.push(GO, 0, 0, 0);
        index += 1;
    }
    index = 0;
    while index < ranges.checked {
        let number = checked[index];
        program.go_here(ends + CHECKS + index);
        if number == libc::SYS_ioctl {
            program.go_here(ioctl);
        }
        program.check_all(kind, number);
        index += 1;
    }
    program
}

/// The numbers of calls as ranges, each with what is done with it. The last one has no end.
struct Ranges {
    starts: [u32; NUMBERS],
    ends: [usize; NUMBERS],
    length: usize,
    /// How many numbers have arguments that are checked.
    checked: usize,
}

impl Ranges {
    const fn of(kind: Kind, checked: &mut [i64; CHECKED]) -> Self {
        let mut ranges = Self {
            starts: [0; NUMBERS],
            ends: [REFUSE; NUMBERS],
            length: 0,
            checked: 0,
        };
        let mut number = 0;
        while number < NUMBERS {
            let mut end = what(kind, number as i64);
            if end == CHECKS {
                checked[ranges.checked] = number as i64;
                end += ranges.checked;
                ranges.checked += 1;
            }
            if ranges.length == 0 || ranges.ends[ranges.length - 1] != end {
                ranges.starts[ranges.length] = number as u32;
                ranges.ends[ranges.length] = end;
                ranges.length += 1;
            }
            number += 1;
        }
        assert!(ranges.ends[ranges.length - 1] == REFUSE);
        ranges
    }
}

/// What a kind's list says of a number: allowed, refused, or allowed by its arguments.
const fn what(kind: Kind, number: i64) -> usize {
    if number == libc::SYS_clone3 {
        return NOT_THERE;
    }
    let (mut what, mut index) = (REFUSE, 0);
    while index < CALLS.len() {
        let call = &CALLS[index];
        if call.number == number && kind.has(call.kinds) {
            if matches!(call.check, Check::Any) {
                return ALLOW;
            }
            what = CHECKS;
        }
        index += 1;
    }
    what
}

impl Program {
    const EMPTY: Self = Self {
        steps: [step(0, 0, 0, 0); MOST],
        length: 0,
        of_process: [0; 2],
        processes: 0,
    };

    /// Adds an instruction; returns its index.
    const fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> usize {
        self.steps[self.length] = step(code, jt, jf, k);
        self.length += 1;
        self.length - 1
    }

    /// Lets the jump at this index lead to the next instruction.
    const fn go_here(&mut self, index: usize) {
        self.steps[index].k = (self.length - index - 1) as u32;
    }

    /// Finds the number's range among those of `from..to`. Returns the index of the first
    /// instruction, which is the range's end if there is one range.
    const fn halve(&mut self, ranges: &Ranges, from: usize, to: usize, ends: usize) -> usize {
        if to - from == 1 {
            return ends + ranges.ends[from];
        }
        let middle = from + (to - from) / 2;
        let index = self.push(IF_AT_LEAST, 0, 0, ranges.starts[middle]);
        let low = self.halve(ranges, from, middle, ends);
        let high = self.halve(ranges, middle, to, ends);
        self.steps[index].jf = reach(index, low);
        self.steps[index].jt = reach(index, high);
        index
    }

    /// Checks the arguments by each row of the list that has the number; one that allows suffices.
    const fn check_all(&mut self, kind: Kind, number: i64) {
        let mut index = 0;
        while index < CALLS.len() {
            let call = &CALLS[index];
            if call.number == number && kind.has(call.kinds) {
                self.check(kind, call);
            }
            index += 1;
        }
        self.push(END, 0, 0, libc::SECCOMP_RET_TRAP);
    }

    /// Allows the call if its arguments are right, or else goes on behind.
    const fn check(&mut self, kind: Kind, call: &Call) {
        match call.check {
            Check::Any => {}
            Check::Ioctl => self.requests(kind),
            Check::NotExecutable => self.none_of(2, libc::PROT_EXEC),
            Check::ReadOnly => self.none_of(2, CHANGES),
            Check::Existing => self.none_of(2, MAKES),
            Check::Thread => {
                self.argument(0);
                self.push(AND, 0, 0, (THREAD | NO_THREAD) as u32);
                self.push(IF_EQUAL, 0, 1, THREAD as u32);
            }
            Check::First(values) => return self.any_of(0, values),
            Check::Second(values) => return self.any_of(1, values),
            Check::OwnLimit => {
                self.argument(0);
                self.push(IF_EQUAL, 0, 5, 0);
                self.argument(2);
                self.push(IF_EQUAL, 0, 3, 0);
                self.push(LOAD, 0, 0, ARGUMENTS + 2 * 8 + 4);
                self.push(IF_EQUAL, 0, 1, 0);
            }
            Check::OwnProcess => {
                self.argument(0);
                self.of_process[self.processes] = self.push(IF_EQUAL, 0, 1, 0);
                self.processes += 1;
            }
        }
        self.push(END, 0, 0, libc::SECCOMP_RET_ALLOW);
    }

    /// Loads the low 32 bits of an argument, which are all that these calls look at.
    const fn argument(&mut self, index: u32) {
        self.push(LOAD, 0, 0, ARGUMENTS + 8 * index);
    }

    /// Whether none of these bits is in the argument.
    const fn none_of(&mut self, argument: u32, bits: i32) {
        self.argument(argument);
        self.push(IF_ANY_BIT, 1, 0, bits as u32);
    }

    /// Whether the argument is one of these: the last comparison skips the instruction that allows.
    const fn any_of(&mut self, argument: u32, values: &[i32]) {
        self.argument(argument);
        let mut index = 0;
        while index < values.len() {
            let left = (values.len() - index - 1) as u8;
            let otherwise = if left == 0 { 1 } else { 0 };
            self.push(IF_EQUAL, left, otherwise, values[index] as u32);
            index += 1;
        }
        self.push(END, 0, 0, libc::SECCOMP_RET_ALLOW);
    }

    /// Whether the request is in the kind's list of ioctls.
    const fn requests(&mut self, kind: Kind) {
        self.argument(1);
        let (first, mut index) = (self.length, 0);
        while index < IOCTLS.len() {
            let row = &IOCTLS[index];
            if kind.has(row.kinds) && !self.compares(first, row.request) {
                self.push(IF_EQUAL, 0, 0, row.request);
            }
            index += 1;
        }
        index = first;
        while index < self.length {
            self.steps[index].jt = reach(index, self.length);
            index += 1;
        }
        self.steps[self.length - 1].jf = 1;
    }

    /// Whether an instruction from `first` on compares with the value.
    const fn compares(&self, first: usize, value: u32) -> bool {
        let mut index = first;
        while index < self.length {
            if self.steps[index].k == value {
                return true;
            }
            index += 1;
        }
        false
    }
}

/// The distance of a jump on a condition.
const fn reach(from: usize, to: usize) -> u8 {
    let distance = to - from - 1;
    assert!(distance < 256);
    distance as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::interpret::{Data, run};
    use crate::sandbox::{calls, ioctls};

    const PROCESS: u32 = 4711;
    const TRAPPED: u32 = libc::SECCOMP_RET_TRAP;
    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

    /// What the tables say, read in the plainest way.
    fn allowed(kind: Kind, data: &Data) -> bool {
        let [first, second, third, ..] = data.arguments.map(|argument| argument as u32);
        let is = |values: &[i32], argument: u32| values.iter().any(|v| *v as u32 == argument);
        let by = |call: &Call| match call.check {
            Check::Any => true,
            Check::Ioctl => ioctls::list(kind).any(|row| row.request == second),
            Check::NotExecutable => third & libc::PROT_EXEC as u32 == 0,
            Check::Thread => {
                first & THREAD as u32 == THREAD as u32 && first & NO_THREAD as u32 == 0
            }
            Check::First(values) => is(values, first),
            Check::Second(values) => is(values, second),
            Check::ReadOnly => third & CHANGES as u32 == 0,
            Check::Existing => third & MAKES as u32 == 0,
            Check::OwnProcess => first == PROCESS,
            Check::OwnLimit => first == 0 && data.arguments[2] == 0,
        };
        let rows = calls::list(kind).filter(|call| call.number == i64::from(data.number));
        rows.into_iter().any(by)
    }

    /// Arguments that a table mentions, and their neighbours.
    fn values() -> Vec<u64> {
        let mut values = vec![0, PROCESS.into(), u64::from(u32::MAX), 1 << 32, u64::MAX];
        for call in CALLS {
            if let Check::First(numbers) | Check::Second(numbers) = call.check {
                values.extend(numbers.iter().map(|n| u64::from(*n as u32)));
            }
        }
        values.extend(IOCTLS.iter().map(|row| u64::from(row.request)));
        values.extend((0..32).map(|bit| 1 << bit));
        values.extend([THREAD, THREAD | NO_THREAD, CHANGES, MAKES].map(|v| v as u64));
        let near = values.clone().into_iter();
        let near = near.flat_map(|v| [v.wrapping_sub(1), v.wrapping_add(1), v | 1 << 32]);
        values.extend(near);
        values.sort_unstable();
        values.dedup();
        values
    }

    #[test]
    fn a_program_does_what_the_tables_say() {
        let values = values();
        for kind in Kind::ALL {
            let program = program(kind, PROCESS, None);
            let (mut allows, mut refuses) = (0, 0);
            let mut agree = |number: i64, arguments: [u64; 6]| {
                let data = Data::new(number, arguments);
                let wanted = allowed(kind, &data);
                let found = run(&program, &data);
                assert_eq!(found == ALLOWED, wanted, "{kind:?}: {data:x?}");
                assert!(
                    wanted || found == TRAPPED,
                    "{kind:?}: {data:x?}: {found:#x}"
                );
                *(if wanted { &mut allows } else { &mut refuses }) += 1;
            };
            for number in 0..1 << 12 {
                if number != libc::SYS_clone3 {
                    agree(number, [0; 6]);
                    agree(number, [u64::MAX; 6]);
                    // The numbers of the calls of x32 (x32.rst) have this bit.
                    agree(number | 1 << 30, [0; 6]);
                }
            }
            for call in CALLS.iter().filter(|call| call.check != Check::Any) {
                for value in &values {
                    for at in 0..3 {
                        let mut arguments = [0; 6];
                        arguments[at] = *value;
                        agree(call.number, arguments);
                    }
                }
            }
            assert!(allows > 1000 && refuses > 1000, "{allows} {refuses}");
        }
    }

    #[test]
    fn other_programs_and_the_handler_of_log() {
        const HANDLER: u64 = 0x7f12_3456_789a;
        for kind in Kind::ALL {
            let filter = program(kind, PROCESS, None);
            let mut read = Data::new(libc::SYS_read, [0; 6]);
            assert_eq!(run(&filter, &read), ALLOWED);
            let new_thread = Data::new(libc::SYS_clone3, [0; 6]);
            let not_there = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
            assert_eq!(run(&filter, &new_thread), not_there);
            // AUDIT_ARCH_I386.
            read.architecture = 0x4000_0003;
            assert_eq!(run(&filter, &read), libc::SECCOMP_RET_KILL_PROCESS);

            let logs = program(kind, PROCESS, Some(HANDLER));
            let mut refused = Data::new(libc::SYS_execve, [0; 6]);
            assert_eq!(run(&logs, &refused), TRAPPED);
            refused.instruction = HANDLER;
            assert_eq!(run(&logs, &refused), ALLOWED);
            assert_eq!(run(&filter, &refused), TRAPPED);
            for wrong in [HANDLER + 1, HANDLER ^ 1 << 32] {
                refused.instruction = wrong;
                assert_eq!(run(&logs, &refused), TRAPPED);
            }
            assert_eq!(run(&logs, &new_thread), not_there);
            let fork = Data::new(libc::SYS_clone, [0; 6]);
            assert_eq!(run(&logs, &fork), libc::SECCOMP_RET_LOG);
        }
    }

    /// The kernel translates a program for each thread, and a vCPU passes it at each exit.
    #[test]
    fn a_program_is_short() {
        for kind in Kind::ALL {
            let steps = program(kind, PROCESS, None);
            assert!(steps.len() < 300, "{kind:?}: {}", steps.len());
        }
        let steps = program(Kind::Vcpu, PROCESS, None);
        let run_at = steps.iter().position(|step| step.k == IOCTLS[0].request);
        let block = steps[5].k as usize + 6;
        assert_eq!(run_at, Some(block + 1));
    }
}
