//! A child process that never outlives this process: the kernel kills it then (prctl(2),
//! PR_SET_PDEATHSIG).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};

/// Lets a program read `input`, write into pipes, and end with the thread that starts it. That
/// thread must live as long as the program. Ctrl-C reaches this process alone, which ends the
/// program in order.
pub fn tie(command: &mut Command, input: Stdio) {
    command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let parent = rustix::process::getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the call.
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::Error::other("the parent has ended")),
        }
    };
    // SAFETY: the closure makes two system calls and allocates only when it fails, in a child whose
    // parent has ended.
    unsafe { command.pre_exec(tie) };
}
