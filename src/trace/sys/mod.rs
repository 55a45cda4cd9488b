//! System calls on the traced program, and facts of the machine: leaf files, the only ones with
//! `unsafe`.

pub mod bpf;
pub mod clock;
pub mod memory;
pub mod ptrace;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod tick;
pub mod vendor;
pub mod wait;
