//! Watches any program that uses KVM, VFIO or iommufd, from outside: `mini-vmm trace -- COMMAND`.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`engine`] | the loop over all traced threads (ptrace) |
//! | [`watch`] | what each system call does to files, memory and guests |
//! | [`files`] | what a descriptor is |
//! | [`decode`] | the fields of each ioctl; knows no process |
//! | [`guest`] | exits, coalesced writes, and their meaning on PCI; knows no process |
//! | [`kernel`] | events of the kernel's own, from tracefs |
//! | [`output`] | text, JSON, Perfetto's format, a page |
//! | [`event`], [`filter`], [`summary`] | what is shown, which of it, and the counts |
//! | [`purposes`] | what system calls and exits are for (`--why`); ioctls have that in [`decode`] |
//! | [`sys`] | system calls on the traced program |
//!
//! ```text
//!   sys::wait ─► engine ─► watch ─┬─► files     what is this descriptor?
//!                                 ├─► decode    what are the fields of this ioctl?
//!                                 ├─► guest     what did the guest do?
//!                                 └─► event ─► output::emitter ─► text, json
//! ```
//!
//! The traced program is not trusted: whatever its memory has, nothing here panics, and each list
//! has a limit.

pub mod cli;
pub mod decode;
pub mod engine;
pub mod event;
pub mod files;
pub mod filter;
pub mod guest;
pub mod kernel;
pub mod output;
pub mod purposes;
pub mod shared;
pub mod summary;
pub mod sys;
pub mod watch;
