//! As many vCPUs as a guest can have. Linux brings the last one online by hand, and the interrupts
//! of a network card, of a disk and of the serial port go there.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, guest};
use lab::kernel::Choice;
use lab::machine::NETWORK_CARD;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

/// The highest APIC ID of a guest.
const LAST_ID: u64 = 254;

/// Lines through the serial port. One interrupt may serve for several.
const LINES: u64 = 20;

/// The most vCPUs.
const ALL: u32 = 255;
/// Sockets of three cores, each with four IDs. The last of these vCPUs has the last ID.
const WITH_GAPS: u32 = 192;

pub fn all() -> Vec<Scenario> {
    let vmm = |cpus: &str, words: &str| {
        Vmm::new(format!("--memory 1G --cpus {cpus}"))
            .cmdline(format!("maxcpus=1 {words}lab.act=last-cpu"))
    };
    vec![
        Scenario::new("the_last_of_255_vcpus_has_the_network")
            .machine(|l1| l1.memory = 3072)
            .limit(240)
            .qemu(&NETWORK_CARD)
            .function("0000:00:09.0")
            .vmm(vmm("255", ""))
            .vmm(vmm("192,sockets=64", "pci=nomsi "))
            .each_run(|round, run| match round {
                0 => pinged(run, ALL, "MSIX"),
                _ => pinged(run, WITH_GAPS, "IO-APIC"),
            }),
        Scenario::new("the_last_of_255_vcpus_reads_by_a_stock_kernel")
            .kernel(Choice::Stock)
            .machine(|l1| l1.memory = 3072)
            .limit(240)
            .disk(Disk::new("lab-disk", 5))
            .vmm(vmm("255", ""))
            .each_run(|_, run| {
                online(run, ALL)?;
                arrived(run, "last-reads", 1000)?;
                arrived(run, "last-serial", LINES / 2)
            }),
    ]
}

/// Only the first CPU was up; then the last one is.
fn online(run: &Run<'_>, cpus: u32) -> Result<()> {
    let last = cpus - 1;
    let before = guest(run, "before")?;
    expect(before == format!("online=0 possible=0-{last}"), || {
        format!("not one CPU of {cpus} before: {before}")
    })?;
    let now = guest(run, "last")?;
    let wanted = format!("cpu={last} apic={LAST_ID} online=0,{last}");
    expect(now == wanted, || {
        format!("\"{now}\" instead of \"{wanted}\"")
    })
}

fn pinged(run: &Run<'_>, cpus: u32, chip: &str) -> Result<()> {
    online(run, cpus)?;
    let ping = guest(run, "last-ping")?;
    expect(ping == "sent=1000 received=1000", || {
        format!("not all pings were answered: {ping}")
    })?;
    expect(run.guest("irq").any(|line| line.contains(chip)), || {
        format!("no {chip} line of the card is in the guest's /proc/interrupts")
    })?;
    arrived(run, "last-pings", 1000)?;
    arrived(run, "last-serial", LINES / 2)
}

/// At least so many interrupts came to the last CPU, and nearly none elsewhere: an interrupt moves
/// when it comes next.
fn arrived(run: &Run<'_>, key: &str, least: u64) -> Result<()> {
    let fact = guest(run, key)?;
    let counts = fact
        .strip_prefix("before ")
        .and_then(|f| f.split_once(" after "));
    let (before, after) = counts.unwrap_or_default();
    let grown = |name| {
        number(after, name)
            .unwrap_or(0)
            .saturating_sub(number(before, name).unwrap_or(0))
    };
    let (here, all) = (grown("here"), grown("all"));
    expect(here >= least && all.saturating_sub(here) <= 10, || {
        format!("{here} of {all} interrupts came to the last CPU, at least {least} were due: {key}")
    })
}
