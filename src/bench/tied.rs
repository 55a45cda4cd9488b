//! A child process that never outlives this process: the kernel kills it then (prctl(2),
//! PR_SET_PDEATHSIG).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Ties a program to the thread that starts it, which must live as long as the program.
pub fn tie(command: &mut Command) {
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
