//! One guest gets a whole group of several functions: the functions of one device, or the devices
//! behind one bridge to conventional PCI.

use lab::Result;
use lab::disk::{Controller, Disk};
use lab::expect::{expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

const FUNCTIONS: [Disk; 2] = [
    Disk::new("first-function", 6),
    Disk::new("second-function", 6).at_function(1),
];
const BRIDGED: [Disk; 2] = [
    Disk::behind("first-bridged", 1, Controller::NvmeBehindBridge),
    Disk::behind("second-bridged", 2, Controller::NvmeBehindBridge),
];

/// Options of `--vfio`, and the address at which the guest then finds each disk: functions of one
/// device, or device 0 behind the ports at the next free devices.
const ONE_SLOT: [(&str, &str); 2] = [
    (",slot=1e.0", "bdf=0000:00:1e.0"),
    (",slot=1e.1", "bdf=0000:00:1e.1"),
];
const FREE_PORTS: [(&str, &str); 2] = [("", "bdf=0000:01:00.0"), ("", "bdf=0000:02:00.0")];

pub fn all() -> Vec<Scenario> {
    vec![
        one_group("two_functions_in_a_container", FUNCTIONS, ONE_SLOT).vmm(by("container")),
        one_group("two_functions_by_iommufd", FUNCTIONS, ONE_SLOT)
            .vmm(by("iommufd"))
            .degraded(&[&["no-peer-to-peer"]]),
        one_group("two_bridged_devices_in_a_container", BRIDGED, FREE_PORTS).vmm(by("container")),
        one_group("two_bridged_devices_by_iommufd", BRIDGED, FREE_PORTS)
            .vmm(by("iommufd"))
            .degraded(&[&["no-peer-to-peer"]]),
    ]
}

fn by(interface: &str) -> String {
    format!("--cpus 2 --memory 512M --iommu {interface}")
}

fn one_group(
    name: &'static str,
    disks: [Disk; 2],
    slots: [(&'static str, &'static str); 2],
) -> Scenario {
    let [first, second] = disks.clone();
    Scenario::new(name)
        .disk_with(first, slots[0].0)
        .disk_with(second, slots[1].0)
        .each_run(|_, run| no_complaint(run))
        .check(move |outcome| in_one_group(outcome, &disks, slots))
}

fn in_one_group(outcome: &Outcome, disks: &[Disk], slots: [(&str, &str); 2]) -> Result<()> {
    let groups: Vec<_> = outcome
        .transcript
        .lab("bound")
        .filter_map(|fact| number(fact, "group"))
        .collect();
    expect(groups.len() == 2 && groups[0] == groups[1], || {
        format!("the two functions are not in one group: {groups:?}")
    })?;
    let run = run(outcome, 0)?;
    for (disk, (_, address)) in disks.iter().zip(slots) {
        let found = format!("serial={} {address}", disk.serial);
        expect(run.guest("disk").any(|fact| fact.contains(&found)), || {
            format!("the guest has no disk with {found}")
        })?;
    }
    Ok(())
}

/// mini-vmm prints no warning in a run without errors, not even at its end. The losses that the
/// scenario names are no errors.
fn no_complaint(run: &Run<'_>) -> Result<()> {
    for line in run.messages().filter(|line| !line.contains("]; hint: ")) {
        let lower = line.to_lowercase();
        let complains = ["error", "warn", "cannot", "fail"]
            .iter()
            .any(|word| lower.contains(word));
        expect(!complains, || format!("mini-vmm complains: {line}"))?;
    }
    Ok(())
}
