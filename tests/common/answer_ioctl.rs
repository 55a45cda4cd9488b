//! A refusal that the kernel does not make by itself, for tests of its explanation. The program's
//! tests use this file, and so does the lab's program that runs in L1.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

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
