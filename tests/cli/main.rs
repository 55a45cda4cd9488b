//! The program as its user meets it: exit status, messages, signals, terminal.
//!
//! Tests that run a guest need /dev/kvm; without it they print `SKIPPED` and why, or fail if
//! `MINI_VMM_REQUIRE=1` is in the environment.

use std::io::Write;

#[path = "../common/answer_ioctl.rs"]
mod answer_ioctl;
#[path = "../common/mod.rs"]
mod common;

mod ch_remote;
mod config_file;
mod confined;
mod control;
mod control_docs;
mod documented_commands;
mod errnos;
mod files;
mod given;
mod golden;
mod host;
mod hot_plug;
mod inputs;
mod openapi;
mod options;
mod process;
mod run;
mod run_as;
mod sandbox;
mod stats;
mod stats_file;
mod streams;
mod sys;
mod terminal;
mod trace;
mod usage;

/// Prints why a test cannot run here. The harness would show output of failed tests only.
fn skipped(why: &str) {
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether guests can run here. If not, prints why, and fails if `MINI_VMM_REQUIRE=1`.
fn kvm() -> bool {
    let Err(e) = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()) else {
        return true;
    };
    let required = std::env::var_os("MINI_VMM_REQUIRE").is_some_and(|v| v == "1");
    assert!(!required, "/dev/kvm must be there, and cannot be used: {e}");
    skipped(&format!("/dev/kvm cannot be used: {e}"));
    false
}
