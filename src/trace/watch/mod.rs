//! What a traced thread's system calls do to files, memory and guests, and the events of them.

pub mod calls;
pub mod descriptors;
pub mod io;
pub mod ioctl;
pub mod kept;
pub mod lifecycle;
pub mod maps;
pub mod memory;
pub mod page;
pub mod passed;
pub mod run;
pub mod thread;
pub mod world;
