//! Makes the filter of a kind of thread from the tables, as a program of classic BPF.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::calls::{self, Check};
use super::ioctls;
use super::kind::Kind;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const INSTRUCTION_LOW: u32 = 8;
const INSTRUCTION_HIGH: u32 = 12;

/// The flags of a new namespace (clone(2)), and CLONE_VFORK and CLONE_PARENT.
const NO_THREAD: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_VFORK
    | libc::CLONE_PARENT
    | libc::CLONE_PTRACE) as u32 as u64;
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;

/// What an open(2) that only reads must not have.
const CHANGES: u64 = libc::O_ACCMODE as u64 | MAKES;
/// What an open(2) of what exists must not have. O_TMPFILE is two bits, of which one is another
/// flag.
const MAKES: u64 = (libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

/// The filter of a kind of thread. Calls of the instruction before the address `logged`, if there
/// is one, are allowed: the handler of [`super::Mode::Log`] makes the refused calls there.
///
/// # Errors
/// The tables make no program.
pub fn compile(kind: Kind, logged: Option<u64>) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls::list(kind) {
        rules
            .entry(call.number)
            .or_default()
            .extend(of(call.check, kind)?);
    }
    // Without a rule, every call of this number is allowed.
    for call in calls::list(kind).filter(|call| call.check == Check::Any) {
        rules.insert(call.number, Vec::new());
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let body: BpfProgram = filter.try_into()?;
    let mut program = head(logged);
    program.extend(body);
    Ok(program)
}

fn of(check: Check, kind: Kind) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let one = |conditions| Ok(vec![SeccompRule::new(conditions)?]);
    let any_of = |argument, values: &[i32]| {
        let rule = |value: &i32| {
            let is = condition(argument, SeccompCmpOp::Eq, value.cast_unsigned().into())?;
            SeccompRule::new(vec![is])
        };
        values.iter().map(rule).collect()
    };
    match check {
        Check::Any => Ok(Vec::new()),
        Check::Ioctl => {
            let mut requests: Vec<_> = ioctls::list(kind).map(|row| row.request).collect();
            // Each request once, in the order of the table.
            let all = requests.clone();
            let mut index = 0;
            requests.retain(|request| {
                index += 1;
                !all.iter().take(index - 1).any(|before| before == request)
            });
            let rule = |request: &u32| {
                SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, u64::from(*request))?])
            };
            requests.iter().map(rule).collect()
        }
        Check::NotExecutable => {
            let mask = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
            one(vec![condition(2, mask, 0)?])
        }
        Check::Thread => {
            let mask = SeccompCmpOp::MaskedEq(THREAD | NO_THREAD);
            one(vec![condition(0, mask, THREAD)?])
        }
        Check::First(values) => any_of(0, values),
        Check::Second(values) => any_of(1, values),
        Check::ReadOnly => one(vec![condition(2, SeccompCmpOp::MaskedEq(CHANGES), 0)?]),
        Check::Existing => one(vec![condition(2, SeccompCmpOp::MaskedEq(MAKES), 0)?]),
        Check::OwnLimit => one(vec![
            condition(0, SeccompCmpOp::Eq, 0)?,
            SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?,
        ]),
        Check::OwnProcess => one(vec![condition(
            0,
            SeccompCmpOp::Eq,
            std::process::id().into(),
        )?]),
    }
}

/// A condition on the low 32 bits of an argument, which are all that these calls look at.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// What a filter does before the rules.
fn head(logged: Option<u64>) -> BpfProgram {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut program = vec![
        step(load, 0, 0, NUMBER),
        // clone3 has the same number in each of the kernel's tables of calls.
        step(jump, 0, 1, libc::SYS_clone3 as u32),
        step(end, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ];
    if let Some(address) = logged {
        program.extend([
            // A handler cannot make this call: the new thread begins on another stack. The kernel
            // logs it instead.
            step(jump, 0, 1, libc::SYS_clone as u32),
            step(end, 0, 0, libc::SECCOMP_RET_LOG),
            step(load, 0, 0, INSTRUCTION_LOW),
            step(jump, 0, 3, address as u32),
            step(load, 0, 0, INSTRUCTION_HIGH),
            step(jump, 0, 1, (address >> 32) as u32),
            step(end, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]);
    }
    program
}
