//! What a function shows behind a root port of the guest, and which functions get one.

use lab::Result;
use lab::command::Vmm;
use lab::disk::{Controller, Disk};
use lab::expect::{expect, guest, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::Run;

/// The host's address of a disk that is an endpoint at the end of a link.
const ENDPOINT: &str = "0000:01:00.0";
const DISK: Disk = Disk::behind("endpoint", 0, Controller::NvmeBehindPort);
/// On L1's root bus, and so integrated into its root complex.
const INTEGRATED: Disk = Disk::new("integrated", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("the_link_is_the_hosts")
            .disk(DISK)
            .l1(format!("say_link {ENDPOINT}"))
            .by_each_interface(|_| "".into())
            .check(|outcome| {
                for index in [0, 1] {
                    same_link(outcome, &run(outcome, index)?, ENDPOINT, ENDPOINT)?;
                }
                Ok(())
            }),
        other_link(),
        Scenario::new("what_has_no_link_is_on_bus_0")
            .disk(DISK)
            .disk(INTEGRATED)
            .qemu(&["-device", "edu,addr=b"])
            .function("0000:00:0b.0")
            .vmm("-v --memory 256M --iommu container")
            .degraded(&[&["no-reset"]])
            .each_run(|_, run| on_their_buses(run)),
    ]
}

/// A link of 8 GT/s x4 at a port of L1 that has 16 GT/s x8 at most. Of QEMU's endpoints only a CXL
/// memory device has another link than 2.5 GT/s x1, and since QEMU 9.2.
fn other_link() -> Scenario {
    Scenario::new("the_link_is_the_hosts_at_8_gt_x4")
        .machine(|l1| l1.xsave = true)
        .qemu(&[
            "-device",
            "pcie-root-port,id=wide,chassis=9,addr=1b,x-speed=16,x-width=8",
            "-object",
            "memory-backend-ram,id=cxl,size=256M",
            "-device",
            "cxl-type3,bus=wide,volatile-memdev=cxl,x-speed=8,x-width=4",
        ])
        .function(ENDPOINT)
        .l1(format!("say_link {ENDPOINT}"))
        .by_each_interface(|_| Vmm::new("--memory 256M").cmdline("lab.disks=none"))
        .check(|outcome| {
            let hosts = of(outcome.transcript.lab("link"), ENDPOINT);
            expect(hosts.starts_with("8.0 GT/s PCIe x4 "), || {
                format!("the host's link is \"{hosts}\"")
            })?;
            for index in [0, 1] {
                same_link(outcome, &run(outcome, index)?, ENDPOINT, ENDPOINT)?;
            }
            Ok(())
        })
}

/// Expects that a function of the guest and the port above it have the link that a function of the
/// host has now, and the function also what that link has at most.
pub fn same_link(outcome: &Outcome, run: &Run<'_>, host: &str, in_guest: &str) -> Result<()> {
    let hosts = of(outcome.transcript.lab("link"), host);
    let device = of(run.guest("link"), in_guest);
    expect(hosts.contains(" GT/s") && device == hosts, || {
        format!("the guest's {in_guest} has the link \"{device}\", the host's {host} \"{hosts}\"")
    })?;
    let port = of(run.guest("above"), in_guest);
    let ports = of(run.guest("link"), &port);
    let now = |link: &str| link.split(" of ").next().unwrap_or_default().to_owned();
    expect(now(&ports) == now(&hosts), || {
        format!("the port {port} has the link \"{ports}\", the host has \"{hosts}\"")
    })
}

/// The fact about a function.
fn of<'a>(mut facts: impl Iterator<Item = &'a str>, name: &str) -> String {
    let found = facts.find_map(|fact| fact.strip_prefix(name));
    found.unwrap_or("none").trim().to_owned()
}

/// The endpoint is behind a port, and the others are on bus 0.
fn on_their_buses(run: &Run<'_>) -> Result<()> {
    let address = |device: &str| {
        let mut facts = run.guest("pci");
        facts.find_map(|fact| fact.contains(device).then(|| fact.split(' ').next())?)
    };
    let edu = address("id=0x1234:0x11e8");
    expect(edu.is_some_and(|bdf| bdf.starts_with("0000:00:")), || {
        format!("the conventional device is at {edu:?}")
    })?;
    for (serial, bus) in [("endpoint", "0000:01:"), ("integrated", "0000:00:")] {
        let wanted = format!("serial={serial} bdf={bus}");
        expect(run.guest("disk").any(|fact| fact.contains(&wanted)), || {
            let disks: Vec<_> = run.guest("disk").collect();
            format!("there is no \"{wanted}\" in {disks:?}")
        })?;
    }
    let ports = run
        .guest("pci")
        .filter(|fact| fact.contains(" class=0x0604"));
    let count = ports.count();
    expect(count == 1, || format!("the guest has {count} ports"))?;
    guest(run, "done").map(|_| ())
}
