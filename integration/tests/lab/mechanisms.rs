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

/// Every combination.
const ALL: [Round; 8] = [
    ("container", ""),
    ("iommufd", ""),
    ("container", ",mmap=off"),
    ("iommufd", ",mmap=off"),
    ("container", ",irqfd=off"),
    ("iommufd", ",irqfd=off"),
    ("container", ",mmap=off,irqfd=off"),
    ("iommufd", ",mmap=off,irqfd=off"),
];

/// The stick's controller has no reset. With `mmap=off` neither device reaches the other's BARs,
/// and iommufd of the lab's kernel never maps BARs.
const OF_BOTH: &[&[&str]] = &[
    &["no-peer-to-peer", "no-peer-to-peer", "no-reset"],
    &["no-peer-to-peer", "no-reset"],
    &["no-peer-to-peer", "no-peer-to-peer", "no-reset"],
    &["no-peer-to-peer", "no-peer-to-peer", "no-reset"],
];

/// What a guest lacks of QEMU's teaching device.
const NO_RESET: &[&str] = &["no-reset"];
const OF_EDU: &[&[&str]] = &[NO_RESET; 8];

pub fn all() -> Vec<Scenario> {
    let both = |stick: Disk| [DISK, stick];
    vec![
        rounds(
            Scenario::new("every_mechanism_off").disk(DISK),
            &ROUNDS[3..],
            &["5"],
            "",
        )
        .each_run(|_, run| counted(run, ROUNDS[3].1)),
        rounds(
            Scenario::new("every_mechanism_of_disks_by_msix_and_msi").disks(&both(STICK_BY_MSI)),
            &ROUNDS,
            &["5", "8"],
            "",
        )
        .slow()
        .degraded(OF_BOTH)
        .each_run(|round, run| counted(run, ROUNDS[round as usize].1)),
        rounds(
            Scenario::new("every_mechanism_of_disks_by_the_pin").disks(&both(STICK)),
            &ROUNDS,
            &["5", "8"],
            "pci=nomsi",
        )
        .slow()
        .interrupt_chip("IO-APIC")
        .degraded(OF_BOTH)
        .each_run(|round, run| counted(run, ROUNDS[round as usize].1)),
        rounds(
            Scenario::new("every_mechanism_of_edu")
                .qemu(&["-device", "edu,addr=b"])
                .function("0000:00:0b.0"),
            &ALL,
            &["b"],
            devices::EDU,
        )
        .slow()
        .degraded(OF_EDU)
        .each_run(|_, run| devices::edu_did(run))
        .each_run(|round, run| exact(run, ALL[round as usize].1)),
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

/// Wake-ups for interrupts, and the interrupts that the host counted.
fn wakeups(stats: &Value) -> (u64, u64) {
    let delivered = sum(&stats["devices"], |device| &device["wakeups"]["delivered"]);
    (
        delivered,
        sum(&stats["interrupts"], |vector| &vector["interrupts"]),
    )
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

/// Checks what the counters say of a disk's run with the switches `off`. Two interrupts at once may
/// be one wake-up.
fn counted(run: &Run<'_>, off: &str) -> Result<()> {
    let stats = stats(run, "end")?;
    let ((delivered, interrupts), doorbells) = (wakeups(&stats), doorbells(&stats));
    eprintln!("  {off:?}: {interrupts} interrupts, {delivered} wake-ups, {doorbells} doorbells");
    expect(interrupts >= REQUESTS, || {
        format!("{interrupts} interrupts for {REQUESTS} requests and more")
    })?;
    expect(
        match off.contains("irqfd=off") {
            true => (interrupts / 2..=interrupts).contains(&delivered),
            false => delivered == 0,
        },
        || format!("a thread woke {delivered} times for {interrupts} interrupts"),
    )?;
    expect(
        match off.contains("mmap=off") {
            true => doorbells >= REQUESTS,
            false => doorbells == 0,
        },
        || format!("{doorbells} writes of a doorbell were exits, with {off:?}"),
    )
}

/// The teaching device waits for each of its interrupts, so each is a wake-up of its own.
fn exact(run: &Run<'_>, off: &str) -> Result<()> {
    let (delivered, interrupts) = wakeups(&stats(run, "end")?);
    expect(interrupts >= 300, || {
        format!("{interrupts} interrupts, and the device raised 300")
    })?;
    let wanted = match off.contains("irqfd=off") {
        true => interrupts,
        false => 0,
    };
    expect(delivered == wanted, || {
        format!("a thread woke {delivered} times for {interrupts} interrupts, with {off:?}")
    })
}
