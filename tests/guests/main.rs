//! Tiny guests on the real KVM, through the library that the binary uses.
//!
//! Where /dev/kvm cannot be used every test is reported as ignored, and `SKIPPED` says why; with
//! `MINI_VMM_REQUIRE=1` in the environment they fail instead.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

#[path = "../common/mod.rs"]
mod common;

mod backing;
mod bars;
mod config;
mod device;
mod faults;
mod gate;
mod hostile;
mod image;
mod irq_code;
mod irqs;
mod life;
mod msi;
mod msix;
mod pci;
mod pin;
mod race;
mod resets;
mod rig;
mod rom;
mod spares;
mod stats;
mod switch;
mod topology;
mod vectors;
mod vm;
mod waiting;
mod walks;

/// A test: its name and what it does. A panic is its failure.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()).err();
    let required = std::env::var_os("MINI_VMM_REQUIRE").is_some_and(|v| v == "1");
    if let Some(why) = missing.as_ref().filter(|_| !arguments.list) {
        println!("SKIPPED: /dev/kvm cannot be used: {why}");
    }
    let why: Option<Arc<str>> = missing.map(|e| e.to_string().into());
    let rooms = [
        ("life", life::TESTS),
        ("config", config::TESTS),
        ("bars", bars::TESTS),
        ("rom", rom::TESTS),
        ("msi", msi::TESTS),
        ("msix", msix::TESTS),
        ("pin", pin::TESTS),
        ("switch", switch::TESTS),
        ("vectors", vectors::TESTS),
        ("faults", faults::TESTS),
        ("gate", gate::TESTS),
        ("resets", resets::TESTS),
        ("stats", stats::TESTS),
        ("race", race::TESTS),
        ("topology", topology::TESTS),
        ("waiting", waiting::TESTS),
        ("spares", spares::TESTS),
        ("walks", walks::TESTS),
        ("hostile", hostile::TESTS),
    ];
    let trials = rooms
        .iter()
        .flat_map(|(room, tests)| tests.iter().map(move |test| (room, test)))
        .map(|(room, (name, test))| {
            let why = why.clone();
            let ignored = why.is_some() && !required;
            let run = move || match &why {
                Some(why) => Err(Failed::from(format!("/dev/kvm cannot be used: {why}"))),
                None => {
                    test();
                    Ok(())
                }
            };
            Trial::test(format!("{room}::{name}"), run).with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
