//! The power button, which Ctrl-A p presses: a guest that listens powers off in order, and a guest
//! without ACPI goes on.

use std::path::PathBuf;

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, guest, no_trouble};
use lab::scenario::Scenario;
use lab::transcript::Run;

/// Shell functions: mini-vmm gets a terminal, and `press` types Ctrl-A p there.
pub const TERMINAL: &str = "\
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mkfifo /run/keys
start_vmm() { start_as '' on-terminal /run/keys mini-vmm \"$@\"; }
press() { printf '\\001p' >/run/keys; }
";

/// The program that gives mini-vmm a terminal.
pub fn on_terminal() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_on-terminal"))
}

pub fn all() -> Vec<Scenario> {
    let press = "await 'L2: listening' 90\npress\n";
    vec![
        Scenario::new("a_power_button_ends_the_guest_that_listens")
            .machine(|l1| l1.programs = vec![on_terminal()])
            .disk(Disk::new("lab-disk", 5))
            .before(TERMINAL)
            .vmm(
                Vmm::new("-v --memory 512M")
                    .cmdline("lab.act=button")
                    .meanwhile(press),
            )
            .vmm(
                Vmm::new("-v --memory 512M --no-reboot")
                    .cmdline("acpi=off reboot=t lab.act=deaf")
                    .meanwhile(press)
                    .exits(3),
            )
            .each_run(|round, run| match round {
                0 => powered_off(run),
                _ => went_on(run),
            }),
    ]
}

fn said(run: &Run<'_>) -> Result<()> {
    let said = run
        .messages()
        .any(|line| line.contains("the power button is pressed"));
    expect(said, || {
        "mini-vmm did not say that it pressed the button".into()
    })
}

fn powered_off(run: &Run<'_>) -> Result<()> {
    said(run)?;
    let pressed = guest(run, "pressed")?;
    expect(pressed.contains("PNP0C0C"), || {
        format!("acpid heard another button: {pressed}")
    })?;
    // An edge, because a level would need a register that lowers it.
    let mut interrupts = run.guest("irq");
    expect(interrupts.any(|line| line.contains("20-edge")), || {
        "the event device has not the interrupt of its table".into()
    })
}

fn went_on(run: &Run<'_>) -> Result<()> {
    said(run)?;
    guest(run, "lives")?;
    no_trouble(run)
}
