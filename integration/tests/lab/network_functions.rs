//! A virtual function of a network card, whose physical function is the host's. The function has
//! MSI-X alone: a virtual function has no pin (PCI Express 6.0, 9.3.4.1.18), and this one no MSI.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

use crate::devices;
use crate::endpoints::same_link;
use crate::ways::{self, by_each_way};

const PHYSICAL: &str = "0000:01:00.0";
/// The first virtual function is 0x80 functions after the physical one.
const VIRTUAL: &str = "0000:01:10.0";
/// Where the guest has the virtual function: behind a root port.
const IN_GUEST: &str = "0000:01:00.0";
const DISK: Disk = Disk::new("lab-disk", 5);

/// QEMU has this card since version 8.0.
const QEMU: [&str; 6] = [
    "-netdev",
    "user,id=net,restrict=on,tftp={dir}",
    "-device",
    "pcie-root-port,id=net-port,chassis=3,slot=3,addr=1d",
    "-device",
    "igb,netdev=net,bus=net-port,addr=0,romfile=",
];

pub fn all() -> Vec<Scenario> {
    let both = [VIRTUAL.to_owned(), DISK.bdf()];
    let by_each_way = by_each_way(
        card("a_network_cards_virtual_function_by_each_way").disk(DISK),
        &both,
        "",
    );
    vec![
        card("a_network_cards_virtual_function")
            .slow()
            .vmm(once("container", ",port=on"))
            .vmm(once("iommufd", ",port=off"))
            .each_run(|_, run| devices::packets(run, "PCI-MSIX"))
            .check(|outcome| has_the_cards_link(outcome, &[0])),
        by_each_way
            .each_run(|_, run| ways::boots(run, &["lab-disk"]))
            .each_run(|_, run| ways::pings(run, "PCI-MSIX"))
            .check(|outcome| has_the_cards_link(outcome, &[0, 1])),
    ]
}

/// L1 creates the function, and its own driver keeps the card.
fn card(name: &'static str) -> Scenario {
    Scenario::new(name)
        .machine(|l1| {
            l1.xsave = true;
            l1.files.push(("numbers", devices::numbers()));
        })
        .qemu(&QEMU)
        .before(format!(
            "say_link {PHYSICAL}\nvirtual_card {PHYSICAL}\nbind_vfio {VIRTUAL}"
        ))
        .check(is_made)
}

fn once(interface: &'static str, options: &str) -> Vmm {
    Vmm::new("--memory 256M")
        .cmdline("lab.disks=none lab.act=net")
        .devices(format!("--vfio {VIRTUAL}{options}"))
        .by(interface)
}

/// The IDs in the virtual function's own registers are all ones.
fn is_made(outcome: &Outcome) -> Result<()> {
    let made = format!("{VIRTUAL} of={PHYSICAL} raw-id=ffffffff");
    let facts: Vec<_> = outcome.transcript.lab("virtual").collect();
    expect(facts == [&made], || {
        format!("L1 has no virtual function with IDs of all ones: {facts:?}")
    })
}

/// In these runs, whose function is behind a port, the function and the port have the link of the
/// physical function.
fn has_the_cards_link(outcome: &Outcome, runs: &[usize]) -> Result<()> {
    runs.iter()
        .try_for_each(|index| same_link(outcome, &run(outcome, *index)?, PHYSICAL, IN_GUEST))
}
