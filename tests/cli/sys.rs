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
