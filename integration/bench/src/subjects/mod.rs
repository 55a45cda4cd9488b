//! Who is measured, and how each is started: from a guest to a command line. Nothing here knows
//! where the subjects run.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`guest`] | the guest, the same for all |
//! | [`kind`] | the kinds of subjects, and what differs between them |
//! | [`bare_calls`] | how the program that makes the bare calls is started |
//! | [`mini_vmm`], [`qemu`], [`cloud_hypervisor`] | how these VMMs are started |
//! | [`firecracker`], [`alioth`], [`crosvm`] | how these VMMs are started |
//! | [`subject`] | a kind with its name and program |
//! | [`list`] | the subjects of one run, those of PEERS among them |
//! | [`arguments`] | the words of a command line |

pub mod alioth;
pub mod arguments;
pub mod bare_calls;
pub mod cloud_hypervisor;
pub mod crosvm;
pub mod firecracker;
pub mod guest;
pub mod kind;
pub mod list;
pub mod mini_vmm;
pub mod qemu;
pub mod subject;

pub use guest::Guest;
pub use kind::Kind;
pub use list::Subjects;
pub use subject::Subject;
