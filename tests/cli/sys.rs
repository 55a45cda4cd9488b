//! The few system calls that the standard library does not have: signals and terminals.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sends a signal to a process.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: the call has no precondition.
    let outcome = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

/// A new pseudo-terminal: the master's side and the program's side.
pub fn open_terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: the first two pointers are to integers that live for the call; the others may be
    // null.
    let outcome = unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    // SAFETY: the call has opened both descriptors, and nothing else owns them.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// The command leads a session whose terminal is its standard input.
pub fn own_terminal(command: &mut Command) {
    let claim = || {
        // SAFETY: neither call touches memory; both may be made between fork and exec.
        let outcome = unsafe {
            match libc::setsid() {
                -1 => -1,
                _ => libc::ioctl(0, libc::TIOCSCTTY, 0),
            }
        };
        match outcome {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(claim) };
}

/// A terminal's flags and special characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Input, output, control and local flags.
    pub flags: [u32; 4],
    characters: Vec<u8>,
}

impl Mode {
    pub fn is_raw(&self) -> bool {
        self.flags[3] & (libc::ICANON | libc::ECHO | libc::ISIG) == 0
    }
}

fn termios(terminal: &OwnedFd) -> libc::termios {
    // SAFETY: termios is plain data, for which zeroes are valid.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives for the call.
    let outcome = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut mode) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    mode
}

/// How a terminal is set.
pub fn mode(terminal: &OwnedFd) -> Mode {
    let mode = termios(terminal);
    Mode {
        flags: [mode.c_iflag, mode.c_oflag, mode.c_cflag, mode.c_lflag],
        characters: mode.c_cc.to_vec(),
    }
}

/// Gives a terminal settings that differ from every default.
pub fn make_peculiar(terminal: &OwnedFd) {
    let mut mode = termios(terminal);
    mode.c_cc[libc::VERASE] = b'#';
    mode.c_lflag &= !libc::ECHOE;
    // SAFETY: the structure lives for the call.
    let outcome = unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &mode) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

/// Makes the kernel answer every ioctl of the command that has this type and number with an errno,
/// by a seccomp filter (Documentation/userspace-api/seccomp_filter.rst).
pub fn answer_ioctl(command: &mut Command, type_and_number: u16, errno: i32) {
    /// Offsets in `struct seccomp_data`: the system call, and the low half of its second argument.
    const SYSTEM_CALL: u32 = 0;
    const REQUEST: u32 = 24;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let and = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The bits above hold the direction and the size of the argument.
    let filter = [
        step(load, 0, 0, SYSTEM_CALL),
        step(jump, 0, 4, libc::SYS_ioctl as u32),
        step(load, 0, 0, REQUEST),
        step(and, 0, 0, 0xffff),
        step(jump, 0, 1, type_and_number.into()),
        step(end, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(end, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: both calls may be made between fork and exec; the kernel only reads the program,
        // which lives for the call.
        let outcome = unsafe {
            match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
                0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program),
                failed => failed,
            }
        };
        match outcome {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}
