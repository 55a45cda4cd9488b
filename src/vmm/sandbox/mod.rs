//! `--sandbox`: what a thread of the VMM may ask of the kernel, once guests or clients talk to it.
//!
//! A guest that takes a thread over has that thread's list, and not all rights of the user who runs
//! mini-vmm.
//!
//! | file | what |
//! | --- | --- |
//! | `mode` | off, on, log |
//! | `kind` | the kinds of threads, and which starts which |
//! | `calls`, `ioctls` | the lists: one table each |
//! | `filter` | the filters of seccomp, which the compiler makes from the tables |
//! | `thread` | [`enter`]: drops capabilities and installs the filter |
//! | `helper` | the processes that open devices and bind them: what they may not do |
//! | `refusal` | what happens when a thread makes another call |
//! | `landlock` | which files the process may open |
//! | [`run_as`] | `--run-as`: the process becomes another user's |
//! | `process` | the process: no core, not dumpable, the limit on locked memory |
//!
//! The processes that open devices and bind them are forked before. They do what the VMM asks them
//! for the devices of the run ([`crate::broker`]), and have a list of what they may not do.

pub mod calls;
mod filter;
pub mod helper;
#[cfg(test)]
mod interpret;
pub mod ioctls;
pub mod kind;
pub mod landlock;
pub mod mode;
mod names;
mod process;
mod refusal;
pub mod run_as;
mod thread;

pub use helper::enter_helper;
pub use kind::Kind;
pub use mode::{Choice, Mode};
pub use process::{Confinement, LIMITS, SandboxError, begin, explain, prepare};
pub use thread::{Confined, enter, may_read_files};

#[cfg(test)]
mod tests;
