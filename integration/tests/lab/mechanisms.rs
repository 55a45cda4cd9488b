//! `mmap=off` and `irqfd=off` on real devices: the content that a guest reads and writes is the
//! same, doorbells are exits, and each interrupt wakes a thread.

use lab::Result;
use lab::command::Vmm;
use lab::disk::{Controller, Disk};
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::transcript::Run;
use serde_json::Value;

use crate::devices;
use crate::disks::stats;

const DISK: Disk = Disk::new("lab-disk", 5);
const STICK: Disk = Disk::behind("usb-stick", 8, Controller::Usb);
const STICK_BY_MSI: Disk = Disk::behind("usb-stick", 8, Controller::UsbByMsi);

/// A run: the interface to the IOMMU, and the switches of all its devices. Every other scenario has
/// all mechanisms.
type Round = (&'static str, &'static str);

/// Each pair of switches, and each interface with all off.
const ROUNDS: [Round; 4] = [
    ("container", ",mmap=off"),
    ("iommufd", ",irqfd=off"),
    ("container", ",mmap=off,irqfd=off"),
    ("iommufd", ",mmap=off,irqfd=off"),
];

/// The same, and one with all on.
const AND_ON: [Round; 5] = [
    ROUNDS[0],
    ROUNDS[1],
    ROUNDS[2],
    ROUNDS[3],
    ("container", ""),
];

/// The stick's controller has no reset. With `mmap=off` neither device reaches the other's BARs,
/// and iommufd of the lab's kernel never maps BARs.
const OF_BOTH: &[&[&str]] = &[&["no-peer-to-peer", "no-reset"] as &[&str]; 4];

/// QEMU's teaching device has no reset.
const OF_EDU: &[&[&str]] = &[&["no-reset"] as &[&str]; 5];

pub fn all() -> Vec<Scenario> {
    let both = |stick: Disk| [DISK, stick];
    vec![
        rounds(
            Scenario::new("every_mechanism_off").disk(DISK),
            &ROUNDS[3..],
            &["5"],
            "",
        )
        .each_run(|_, run| rang(run, ROUNDS[3].1)),
        rounds(
            Scenario::new("every_mechanism_of_disks_by_msix_and_msi").disks(&both(STICK_BY_MSI)),
            &ROUNDS,
            &["5", "8"],
            "",
        )
        .slow()
        .degraded(OF_BOTH)
        .each_run(|round, run| rang(run, ROUNDS[round as usize].1)),
        rounds(
            Scenario::new("every_mechanism_of_disks_by_the_pin").disks(&both(STICK)),
            &ROUNDS,
            &["5", "8"],
            "pci=nomsi",
        )
        .apart()
        .interrupt_chip("IO-APIC")
        .degraded(OF_BOTH)
        .each_run(|round, run| rang(run, ROUNDS[round as usize].1)),
        rounds(
            Scenario::new("every_mechanism_of_edu")
                .qemu(&["-device", "edu,addr=b"])
                .function("0000:00:0b.0"),
            &AND_ON,
            &["b"],
            devices::EDU,
        )
        .slow()
        .degraded(OF_EDU)
        .each_run(|_, run| devices::edu_did(run))
        .each_run(|round, run| counted(run, AND_ON[round as usize].1, RAISED)),
        devices::network_with(
            "every_mechanism_of_a_network_card",
            ("", "MSIX"),
            &[",mmap=off", ",irqfd=off", ",mmap=off,irqfd=off"],
        )
        .slow(),
        devices::network_with(
            "every_mechanism_of_a_network_card_by_its_pin",
            ("pci=nomsi ", "IO-APIC"),
            &[",irqfd=off", ",mmap=off,irqfd=off"],
        )
        .slow(),
    ]
}

/// Runs mini-vmm once for each round. `devices` are device numbers on L1's bus 0.
fn rounds(scenario: Scenario, rounds: &[Round], devices: &[&str], words: &str) -> Scenario {
    rounds.iter().fold(scenario, |scenario, (interface, off)| {
        let devices = devices
            .iter()
            .map(|d| format!("--vfio 0000:00:0{d}.0{off}"));
        let vmm = Vmm::new("--memory 256M --stats=/run/stats.json")
            .cmdline(words)
            .devices(devices.collect::<Vec<_>>().join(" "))
            .by(interface);
        scenario
            .vmm(vmm)
            .l1("cp /run/stats.json /run/stats.end\nsay_reports end")
    })
}

/// Sums a number of each entry of a list in the statistics.
fn sum<'a>(list: &'a Value, number: impl Fn(&'a Value) -> &'a Value) -> u64 {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| number(entry).as_u64()).sum()
}

/// Wake-ups that gave KVM an interrupt, and those that unmasked a pin.
fn wakeups(stats: &Value) -> (u64, u64) {
    let of = |name: &'static str| sum(&stats["devices"], move |d| &d["wakeups"][name]);
    (of("delivered"), of("unmasked"))
}

/// The interrupts that the host counted: messages, and levels.
fn interrupts(stats: &Value) -> (u64, u64) {
    let of = |levels: bool| {
        let vectors = stats["interrupts"].as_array().into_iter().flatten();
        let vectors = vectors.filter(|vector| (vector["kind"] == "intx") == levels);
        vectors.filter_map(|v| v["interrupts"].as_u64()).sum()
    };
    (of(false), of(true))
}

/// Writes of the disk's doorbells that were exits (NVM Express 2.0, 3.1.3.3: submission queue 1).
fn doorbells(stats: &Value) -> u64 {
    let registers = stats["exits"]["registers"].as_array().into_iter().flatten();
    let doorbells = registers.filter(|register| {
        let name = register["place"].as_str().unwrap_or_default();
        register["write"] == true && name.ends_with("BAR 0") && register["offset"] == "0x1008"
    });
    doorbells.filter_map(|r| r["count"].as_u64()).sum()
}

/// The least number of requests of a guest that works a disk.
const REQUESTS: u64 = 256;
/// The interrupts that the teaching device raises.
const RAISED: u64 = 300;

/// Checks what the counters say of a run with the switches `off`. Each interrupt of the `requests`
/// is awaited before the next, so that each is a wake-up of its own. Of the others, which a driver
/// causes by itself, two may come before the thread wakes, which is one wake-up (eventfd(2)); that
/// is rare. A pin that is still asserted when it is unmasked is signalled by VFIO without an
/// interrupt of the host (drivers/vfio/pci/vfio_pci_intrs.c, `vfio_pci_intx_unmask_handler`).
fn counted(run: &Run<'_>, off: &str, requests: u64) -> Result<()> {
    let stats = stats(run, "end")?;
    let (delivered, unmasked) = wakeups(&stats);
    let (messages, levels) = interrupts(&stats);
    eprintln!("  {off:?}: {messages} messages, {levels} levels; {delivered} wake-ups");
    expect(messages + levels >= requests, || {
        format!("{messages} messages and {levels} levels for {requests} requests and more")
    })?;
    let all = messages + levels;
    let wanted = match off.contains("irqfd=off") {
        true => requests.max(all - all / 50)..=all + unmasked,
        false => 0..=0,
    };
    expect(wanted.contains(&delivered), || {
        format!("a thread woke {delivered} times for {messages} messages and {levels} levels")
    })
}

/// The same of a disk, whose doorbells are exits with `mmap=off` alone.
fn rang(run: &Run<'_>, off: &str) -> Result<()> {
    counted(run, off, REQUESTS)?;
    let doorbells = doorbells(&stats(run, "end")?);
    expect(
        match off.contains("mmap=off") {
            true => doorbells >= REQUESTS,
            false => doorbells == 0,
        },
        || format!("{doorbells} writes of a doorbell were exits, with {off:?}"),
    )
}
