//! Each kind of device by each way to a guest: behind a root port and on bus 0, by the container
//! and by iommufd, with MSI-X, with MSI and with the interrupt pin. Each way is three boots of one
//! run.

use lab::Result;
use lab::command::{INTERFACES, Vmm};
use lab::disk::{Controller, Disk};
use lab::expect::{expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

use crate::endpoints::same_link;

const DISK: Disk = Disk::behind("endpoint", 0, Controller::NvmeBehindPort);
const STICK: Disk = Disk::behind("usb-stick", 0, Controller::UsbBehindPort);
const STICK_BY_MSI: Disk = Disk::behind("usb-stick", 0, Controller::UsbByMsiBehindPort);

/// The network card, behind a root port of L1 after those of the disk and of the stick.
const CARD: &str = "0000:03:00.0";
const CARDS_PORT: &str = "pcie-root-port,id=net-port,chassis=3,slot=3,addr=1e.1,multifunction=on";
const QEMU: [&str; 6] = [
    "-netdev",
    "user,id=net,restrict=on",
    "-device",
    CARDS_PORT,
    "-device",
    "e1000e,netdev=net,bus=net-port,addr=0,romfile=",
];

/// The guest's boots in each run.
pub const BOOTS: usize = 3;
const PORTS: [&str; 2] = [",port=on", ",port=off"];
/// How the guest's /proc/interrupts names interrupts by the pin.
const PIN: &str = "IO-APIC";

/// iommufd of the release's kernel maps no BARs.
const LOSSES: &[&[&str]] = &[&[], &["no-peer-to-peer"], &[], &["no-peer-to-peer"]];

pub fn all() -> Vec<Scenario> {
    vec![
        with_card("all_devices_by_msix", "", "PCI-MSIX"),
        with_card("all_devices_by_their_pins", "pci=nomsi ", PIN).interrupt_chip(PIN),
        // QEMU's NVMe controller has no MSI, and uses MSI-X. QEMU's network card has MSI, but does
        // not pass its driver's own test of MSI, in L1 as little as in a guest.
        ways("all_devices_by_msi", STICK_BY_MSI, None, "").each_run(|_, run| by_msi(run)),
    ]
}

fn with_card(name: &'static str, words: &'static str, chip: &'static str) -> Scenario {
    ways(name, STICK, Some(CARD), words)
        .qemu(&QEMU)
        .function(CARD)
        .each_run(move |_, run| pings(run, chip))
}

fn ways(name: &'static str, stick: Disk, card: Option<&str>, words: &str) -> Scenario {
    let mut devices = vec![DISK.bdf(), stick.bdf()];
    devices.extend(card.map(str::to_owned));
    let links: String = devices
        .iter()
        .map(|at| format!("say_link {at}\n"))
        .collect();
    let scenario = Scenario::new(name).disk(DISK).disk(stick).l1(links);
    by_each_way(scenario, &devices, words)
        .each_run(|_, run| boots(run, &["endpoint", "usb-stick"]))
        .check(links_are_the_hosts)
}

/// The USB controller has MSI, and not MSI-X.
fn by_msi(run: &Run<'_>) -> Result<()> {
    let lines: Vec<_> = run
        .guest("irq")
        .filter(|line| line.contains("xhci"))
        .collect();
    let of_kind = lines.iter().all(|line| line.contains("PCI-MSI-"));
    expect(!lines.is_empty() && of_kind, || {
        format!("the USB controller has other interrupts than MSI: {lines:?}")
    })
}

/// Adds a run for each way.
pub fn by_each_way(scenario: Scenario, devices: &[String], words: &str) -> Scenario {
    let ways = PORTS
        .iter()
        .flat_map(|port| INTERFACES.map(|interface| (port, interface)));
    let scenario = scenario.apart().limit(600).degraded(LOSSES);
    ways.fold(scenario, |scenario, (port, interface)| {
        let devices = devices.iter().map(|at| format!("--vfio {at}{port}"));
        let vmm = Vmm::new("--memory 256M")
            .cmdline(format!("{words}lab.act=all-{BOOTS}"))
            .devices(devices.collect::<Vec<_>>().join(" "))
            .boots(BOOTS);
        scenario.vmm(vmm.by(interface))
    })
}

/// In each boot, each disk gave an interrupt for each read.
pub fn boots(run: &Run<'_>, serials: &[&str]) -> Result<()> {
    for serial in serials {
        let facts = run
            .guest("interrupts")
            .filter(|fact| fact.starts_with(serial));
        let counted = facts.count();
        expect(counted == BOOTS, || {
            format!("{counted} of {BOOTS} boots counted the interrupts of {serial}")
        })?;
    }
    Ok(())
}

/// In each boot, the card gave an interrupt for each ping, and all its interrupts are of one kind.
pub fn pings(run: &Run<'_>, chip: &str) -> Result<()> {
    let pings: Vec<_> = run.guest("ping").collect();
    expect(pings == ["sent=50 received=50"; BOOTS], || {
        format!("not all pings of each boot were answered: {pings:?}")
    })?;
    let interrupts = run.guest("net-interrupts").map(|fact| {
        let [before, after] = ["before", "after"].map(|name| number(fact, name).unwrap_or(0));
        after.saturating_sub(before)
    });
    let interrupts: Vec<_> = interrupts.collect();
    expect(interrupts.iter().all(|count| *count >= 50), || {
        format!("too few interrupts for 50 pings in each boot: {interrupts:?}")
    })?;
    let lines: Vec<_> = run.guest("irq-of-card").collect();
    let of_kind = lines.iter().all(|line| line.contains(chip));
    expect(!lines.is_empty() && of_kind, || {
        format!("the card has other interrupts than {chip}: {lines:?}")
    })
}

/// Behind a port, each device has the link of the host's; on bus 0 none is behind a port.
fn links_are_the_hosts(outcome: &Outcome) -> Result<()> {
    let hosts: Vec<_> = outcome.transcript.lab("link").collect();
    let hosts = hosts.iter().filter_map(|fact| fact.split(' ').next());
    for index in 0..PORTS.len() * INTERFACES.len() {
        let run = run(outcome, index)?;
        let behind = index < INTERFACES.len();
        for (host, bus) in hosts.clone().zip(1..) {
            let in_guest = format!("0000:{bus:02x}:00.0");
            if behind {
                same_link(outcome, &run, host, &in_guest)?;
            }
        }
        let ports = run
            .guest("pci")
            .filter(|fact| fact.contains(" class=0x0604"))
            .count();
        let wanted = if behind {
            BOOTS * hosts.clone().count()
        } else {
            0
        };
        expect(ports == wanted, || {
            format!("run {index} shows {ports} ports, not {wanted}")
        })?;
    }
    Ok(())
}
