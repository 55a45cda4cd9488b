//! Runs a program in L1 with a terminal as its standard input: `on-terminal FIFO PROGRAM ARG...`.
//! What is written to the FIFO is typed. The other streams are the caller's, and so is the exit
//! status.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::{env, ptr, thread};

fn main() -> ExitCode {
    match run(env::args().skip(1)) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("on-terminal: {e}");
            ExitCode::from(125)
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> io::Result<u8> {
    let usage = || io::Error::other("on-terminal FIFO PROGRAM ARG...");
    let fifo = arguments.next().ok_or_else(usage)?;
    let program = arguments.next().ok_or_else(usage)?;
    let (keyboard, terminal) = open_terminal()?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(terminal))
        .spawn()?;
    // Open for writing too, so that the FIFO has no end. The thread ends with the process.
    let mut typed = OpenOptions::new().read(true).write(true).open(fifo)?;
    thread::spawn(move || io::copy(&mut typed, &mut File::from(keyboard)));
    let status = child.wait()?;
    Ok(status
        .code()
        .and_then(|code| code.try_into().ok())
        .unwrap_or(126))
}

/// Makes a pseudo-terminal: the side that types, and the side that a program reads (openpty(3)).
fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: both numbers are written, and the name, the mode and the size may be null.
    let opened = unsafe {
        let no = ptr::null_mut();
        libc::openpty(&raw mut ours, &raw mut theirs, no, no.cast(), no.cast())
    };
    if opened != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty has just opened both descriptors, and nothing else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) })
}
