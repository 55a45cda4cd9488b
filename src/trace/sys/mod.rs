//! System calls on the traced program, and facts of the machine: leaf files, the only ones with
//! `unsafe`.

pub mod clock;
pub mod memory;
pub mod perf;
pub mod ptrace;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod tick;
pub mod tracefs;
pub mod vendor;
pub mod wait;
