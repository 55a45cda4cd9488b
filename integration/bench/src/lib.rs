//! The bench does the same work under mini-vmm, under other VMMs and by the bare system calls, in
//! turn. The bench asserts nothing. docs/benchmarking.md explains how to run it and how to read its
//! figures.
//!
//! Each module uses only modules below it:
//!
//! ```text
//!  command ─── `make bench`, `make bench-check`, `make bench-readme`
//!  │
//!  ├─ where: on_host   this machine's /dev/kvm
//!  │         in_lab    the machine that QEMU emulates, with an IOMMU and NVMe disks
//!  │
//!  ├─ who:   subjects  how mini-vmm, QEMU, other VMMs and the bare calls are started
//!  │
//!  ├─ how:   watch     a VMM while it runs: its console, clock, counters, memory, CPU time
//!  │         tiny      guests of a few bytes
//!  │         plan      the amount of work
//!  │
//!  └─ what:  targets, compare, report ── figures ── results ── stats, names
//! ```
//!
//! | module | content |
//! | --- | --- |
//! | [`command`] | the jobs of the program |
//! | [`plan`] | the amount of work, from environment variables |
//! | [`subjects`] | the programs to measure, and the way to start each |
//! | [`on_host`] | measurements on this machine's /dev/kvm |
//! | [`in_lab`] | measurements in the emulated machine |
//! | [`watch`] | a VMM while it runs |
//! | [`tiny`] | guests of a few bytes |
//! | [`about`] | the environment of a run |
//! | [`names`] | names of subjects, work and quantities |
//! | [`results`] | figures as data |
//! | [`stats`] | medians, quartiles, slopes |
//! | [`figures`] | numbers, cells and ratios as text |
//! | [`report`] | the reports as Markdown, HTML and SVG |
//! | [`targets`] | the project's targets, and whether a run reached them |
//! | [`compare`] | the differences between two results files |
//! | [`error`] | errors |
//!
//! Only `command` and `in_lab` use the crate `lab`, which a test checks. The other modules can
//! therefore become a program for any host.

pub mod about;
pub mod command;
pub mod compare;
pub mod error;
pub mod figures;
pub mod in_lab;
pub mod names;
pub mod on_host;
pub mod plan;
pub mod report;
pub mod results;
pub mod stats;
pub mod subjects;
pub mod targets;
pub mod tiny;
pub mod watch;
