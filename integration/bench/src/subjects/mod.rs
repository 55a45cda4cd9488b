//! The subjects of a measurement, and the way to start each: these modules translate a description
//! of a guest to a command line. They do not depend on where a subject runs.
//!
//! | module | content |
//! | --- | --- |
//! | [`guest`] | the description of a guest, the same for all subjects |
//! | [`kind`] | the kinds of subjects, and the differences between them |
//! | [`bare_calls`] | the arguments of the program that makes the bare calls |
//! | [`mini_vmm`], [`qemu`], [`cloud_hypervisor`] | the arguments of these VMMs |
//! | [`firecracker`], [`alioth`], [`crosvm`] | the arguments of these VMMs |
//! | [`subject`] | a kind with its name and its program |
//! | [`list`] | the subjects of one run, with those that the variable PEERS names |
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
