//! SIGSYS: a thread has made a call that its list does not have.
//!
//! The filters trap such a call (SECCOMP_RET_TRAP): the kernel does not make it, and sends the
//! signal. With [`Mode::On`](super::mode::Mode::On), the handler names the call and ends the
//! process. With [`Mode::Log`](super::mode::Mode::Log), it names the call and makes it, by one
//! instruction whose calls all filters allow. SECCOMP_RET_LOG does the second in the kernel, but
//! writes to the kernel's log, where the user of a guest seldom may read and which does not say
//! whose list it was.
//!
//! The handler calls async-signal-safe functions only (signal-safety(7)).

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use super::kind::Kind;
use super::mode::Mode;
use super::names;

/// Milliseconds for which a message waits until standard error takes it.
const PATIENCE: i32 = 500;
/// The code of a signal that a filter has caused (asm-generic/siginfo.h).
const SYS_SECCOMP: i32 = 1;

thread_local! {
    /// The number of this thread's kind. A constant without a destructor needs no allocation.
    static KIND: Cell<u8> = const { Cell::new(u8::MAX) };
}

/// What must be done before the process ends.
static BEFORE_END: OnceLock<fn()> = OnceLock::new();

/// The calls that were said, each once: kind, number, and the request of an ioctl.
static SAID: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

/// The kind of this thread, for messages from now on.
pub fn set_kind(kind: Kind) {
    KIND.set(kind as u8);
}

/// The kind of this thread, if it belongs to one.
pub fn kind() -> Option<Kind> {
    Kind::from_number(KIND.get())
}

/// Handles the signal from now on. `before_end` restores what the end of the process does not; it
/// must be async-signal-safe.
///
/// # Errors
/// The errno of sigaction(2).
pub fn catch(before_end: fn()) -> io::Result<()> {
    // A second call changes nothing.
    let _ = BEFORE_END.set(before_end);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_refusal;
    // SAFETY: zeros are an action without a mask: a call that `log` makes in the handler can be
    // interrupted as without the sandbox.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action lives for the call.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_refusal(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the signal's information and the thread's registers.
    let (code, registers) = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        ((*info).si_code, &mut context.uc_mcontext.gregs)
    };
    let register = |number: i32| {
        let value = registers.get(number as usize).copied();
        value.unwrap_or_default()
    };
    if code != SYS_SECCOMP {
        end(format_args!("mini-vmm: ended by a SIGSYS that was sent"));
    }
    let number = register(libc::REG_RAX);
    let arguments = [
        libc::REG_RDI,
        libc::REG_RSI,
        libc::REG_RDX,
        libc::REG_R10,
        libc::REG_R8,
        libc::REG_R9,
    ]
    .map(register);
    let call = Refused {
        number,
        second: arguments[1].cast_unsigned(),
        first: arguments[0].cast_unsigned(),
    };
    let kind = Kind::from_number(KIND.get()).map_or("unknown", Kind::name);
    if Mode::current() != Mode::Log {
        end(format_args!(
            "mini-vmm: the sandbox refuses the call {call} of a thread of kind {kind}, and ends \
             the run\nhint: run with --sandbox log and report its lines, and with --sandbox off \
             until the list has it"
        ));
    }
    if is_new(&call) {
        line(format_args!(
            "mini-vmm: sandbox: {call} is not in the list of {kind}"
        ));
    }
    let outcome = repeat(number, arguments);
    if let Some(to) = registers.get_mut(libc::REG_RAX as usize) {
        *to = outcome;
    }
}

/// A refused call.
struct Refused {
    number: i64,
    first: u64,
    second: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match names::name(self.number) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}", self.number)?,
        }
        // What the lists look at.
        match self.number {
            libc::SYS_ioctl => write!(f, " {:#x}", self.second as u32),
            libc::SYS_fcntl => write!(f, " {}", self.second as u32),
            libc::SYS_prctl | libc::SYS_socket | libc::SYS_seccomp => {
                write!(f, " {}", self.first as u32)
            }
            _ => Ok(()),
        }
    }
}

/// Whether the call was not said yet for this kind of thread.
fn is_new(call: &Refused) -> bool {
    let argument = match call.number {
        libc::SYS_ioctl | libc::SYS_fcntl => call.second as u32,
        libc::SYS_prctl | libc::SYS_socket => call.first as u32,
        _ => 0,
    };
    let kind = u64::from(KIND.get()) + 1;
    let key = kind << 48 | (call.number.cast_unsigned() & 0xffff) << 32 | u64::from(argument);
    for said in &SAID {
        match said.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(old) if old == key => return false,
            Err(_) => {}
        }
    }
    false
}

/// Says why, and ends the process without the exit handlers, which may not run here.
fn end(message: fmt::Arguments<'_>) -> ! {
    if let Some(before_end) = BEFORE_END.get() {
        before_end();
    }
    line(message);
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) }
}

/// Says why the process ends, from a thread that could not be confined.
pub fn give_up(message: fmt::Arguments<'_>) -> ! {
    end(message)
}

/// Writes a line to standard error without the allocator.
fn line(message: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; 320],
        len: 0,
    };
    // What does not fit is cut.
    let _ = fmt::write(&mut line, message);
    let _ = fmt::Write::write_str(&mut line, "\n");
    let mut stderr = libc::pollfd {
        fd: 2,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: both buffers live for the calls. A full pipe or a stopped terminal does not hold the
    // end up; a failed write changes nothing.
    unsafe {
        if libc::poll(&raw mut stderr, 1, PATIENCE) > 0 {
            libc::write(2, line.bytes.as_ptr().cast(), line.len);
        }
    }
}

struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.bytes.iter_mut().skip(self.len);
        self.len += free.zip(text.bytes()).map(|(to, from)| *to = from).count();
        Ok(())
    }
}

std::arch::global_asm!(
    // long mini_vmm_call(long number, const long arguments[6])
    ".pushsection .text.mini_vmm_call,\"ax\",@progbits",
    ".globl mini_vmm_call",
    ".globl mini_vmm_called",
    ".hidden mini_vmm_call",
    ".hidden mini_vmm_called",
    ".type mini_vmm_call,@function",
    "mini_vmm_call:",
    "mov rax, rdi",
    "mov r11, rsi",
    "mov rdi, [r11]",
    "mov rsi, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov r10, [r11 + 24]",
    "mov r8, [r11 + 32]",
    "mov r9, [r11 + 40]",
    "syscall",
    "mini_vmm_called:",
    "ret",
    ".size mini_vmm_call, . - mini_vmm_call",
    ".popsection",
);

unsafe extern "C" {
    fn mini_vmm_call(number: i64, arguments: *const i64) -> i64;
    fn mini_vmm_called();
}

/// The address after the instruction that makes calls for [`Mode::Log`], which is what a filter
/// sees of it.
pub fn logged_calls() -> u64 {
    mini_vmm_called as *const () as u64
}

/// Makes the call. Returns what the kernel returns in the register.
fn repeat(number: i64, arguments: [i64; 6]) -> i64 {
    // SAFETY: the thread has asked for this call with these arguments, and would have made it if
    // there were no filter.
    unsafe { mini_vmm_call(number, arguments.as_ptr()) }
}
