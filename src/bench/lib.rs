//! `mini-vmm-bench` measures a passed-through device on the machine that has it: the same work of a
//! disk or port by the host's own driver and in a guest of mini-vmm, in turns, and the start, reset
//! and reboot of a guest with any device.
//!
//! | module | content |
//! | --- | --- |
//! | [`stats`] | whether a difference is real: rounds, intervals, percentiles, the stopping rule |
//! | [`work`] | the reads, the same for all subjects |
//! | [`kernel`] | the guest's kernel, and its initramfs with this program as /init |
//! | [`guest`] | this program as the guest's /init |
//! | [`disks`] | disks in sysfs |
//! | [`network`] | network ports, and the other end of a link |
//! | [`signatures`] | what a disk is known to hold |
//! | [`subjects`] | the host and the guests, and their turns |
//! | [`cross`] | other programs that measure the same work |
//! | [`session`] | the plan of a run, and its rounds |
//! | [`context`] | the machine's state, with verdicts |
//! | [`report`] | JSON, tables, Markdown, CSV |
//! | [`page`] | the HTML page with its plots |
//! | [`reports`] | the files of a run that are made from its JSON |
//! | [`cli`] | the command line |
//! | [`say`] | what is said on the terminal |
//! | [`stop`] | Ctrl-C |
//! | [`tied`] | children that never outlive this process |
//! | [`error`] | errors with hints |

pub mod cli;
pub mod context;
pub mod cross;
pub mod disks;
pub mod error;
pub mod guest;
pub mod kernel;
pub mod network;
pub mod page;
pub mod report;
pub mod reports;
pub mod say;
pub mod session;
pub mod signatures;
pub mod stats;
pub mod stop;
pub mod subjects;
pub mod tied;
pub mod work;
