//! Tiny guests on the real KVM, through the library that the binary uses.
//!
//! Where /dev/kvm cannot be used every test is reported as ignored, and `SKIPPED` says why; with
//! `MINI_VMM_REQUIRE=1` in the environment they fail instead.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use vmm::config::mechanisms::Mechanisms;

#[path = "../common/mod.rs"]
mod common;

/// Tests by the names of their functions.
macro_rules! tests {
    [$($name:ident),+ $(,)?] => { &[$((stringify!($name), $name)),+] };
}

/// Modules with tests by their names.
macro_rules! modules {
    [$($name:ident),+ $(,)?] => { [$((stringify!($name), $name::TESTS)),+] };
}

mod backing;
mod bars;
mod config;
mod control;
mod device;
mod dma_ready;
mod empty_ports;
mod endless;
mod endless_calls;
mod endpoints;
mod faults;
mod function_reset;
mod hostile;
mod hot_plug;
mod hot_plug_events;
mod hot_plug_faults;
mod hot_plug_pin;
mod hot_plug_requests;
mod hot_plug_storms;
mod irq_code;
mod irqs;
mod large_ram;
mod life;
mod losses;
mod mechanisms;
mod memory_messages;
mod mirrors;
mod msi;
mod msix;
mod opening;
mod opening_ends;
mod opening_frozen;
mod pci;
mod peers;
mod pin;
mod plug_guest;
mod plug_host;
mod ports;
mod ports_race;
mod ports_reset;
mod ports_sleep;
mod power_button;
mod power_on;
mod race;
mod reset_kinds;
mod resets;
mod rig;
mod rom;
mod slot;
mod stats;
mod storm;
mod switch;
mod switches;
mod topology;
mod unused_vectors;
mod vectors;
mod vm;
mod waiting;
mod walks;

/// A test: its name and what it does. A panic is its failure.
type Test = (&'static str, fn());

/// The tests by module, in their order.
const MODULES: &[(&str, &[Test])] = &modules![
    life,
    losses,
    mechanisms,
    config,
    control,
    bars,
    rom,
    slot,
    msi,
    msix,
    peers,
    pin,
    ports,
    empty_ports,
    ports_race,
    ports_reset,
    ports_sleep,
    power_button,
    power_on,
    switch,
    switches,
    vectors,
    memory_messages,
    faults,
    endless,
    function_reset,
    dma_ready,
    opening,
    opening_ends,
    opening_frozen,
    endpoints,
    resets,
    stats,
    storm,
    race,
    topology,
    waiting,
    unused_vectors,
    mirrors,
    walks,
    hostile,
    hot_plug,
    hot_plug_events,
    hot_plug_faults,
    hot_plug_pin,
    hot_plug_requests,
    hot_plug_storms,
];
/// Once more with a thread in place of irqfds.
const BY_THREAD: &[(&str, &[Test])] =
    &modules![memory_messages, msi, msix, pin, unused_vectors, vectors];
/// Some seconds and gigabytes of KVM's own tables: `make test-all` runs these.
const SLOW: &[(&str, &[Test])] = &modules![large_ram];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    endless_calls::prepare();
    let missing = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()).err();
    let required = std::env::var_os("MINI_VMM_REQUIRE").is_some_and(|v| v == "1");
    if let Some(why) = missing.as_ref().filter(|_| !arguments.list) {
        println!("SKIPPED: /dev/kvm cannot be used: {why}");
    }
    let why: Option<Arc<str>> = missing.map(|e| e.to_string().into());
    let all = MODULES.iter().map(|module| ("", false, module));
    let all = all.chain(SLOW.iter().map(|module| ("", true, module)));
    let all = all.chain(
        BY_THREAD
            .iter()
            .map(|module| ("irqfd_off::", false, module)),
    );
    let trials = all
        .flat_map(|(prefix, slow, (module, tests))| {
            tests.iter().map(move |test| (prefix, slow, module, test))
        })
        .map(|(prefix, slow, module, (name, test))| {
            let why = why.clone();
            let mechanisms = Mechanisms {
                irqfd: prefix.is_empty(),
                ..Mechanisms::ALL
            };
            let ignored = slow || (why.is_some() && !required);
            let run = move || match &why {
                Some(why) if required => {
                    Err(Failed::from(format!("/dev/kvm cannot be used: {why}")))
                }
                Some(why) => Ok(Completion::ignored_with(why.to_string())),
                None => {
                    vm::with_mechanisms(mechanisms, test);
                    Ok(Completion::Completed)
                }
            };
            Trial::ignorable_test(format!("{prefix}{module}::{name}"), run)
                .with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
