//! System calls on the traced program: leaf files, the only ones with `unsafe`.

pub mod clock;
pub mod memory;
pub mod ptrace;
pub mod signals;
pub mod spawn;
pub mod wait;
