//! Groups of several functions, given to one guest whole: the functions of one device, and the
//! devices behind one bridge to conventional PCI.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::number;

use lab::expect::{back_with_guest_text, ended_well, expect, run, worked};

pub fn all() -> Vec<Scenario> {
    let functions = || {
        let mut second = Disk::new("second-function", 6);
        second.function = 1;
        [Disk::new("first-function", 6), second]
    };
    let bridged = || {
        [
            Disk::wired("first-bridged", 1, Wiring::NvmeBehindBridge),
            Disk::wired("second-bridged", 2, Wiring::NvmeBehindBridge),
        ]
    };
    vec![
        one_group(
            "two_functions_in_a_container",
            functions(),
            "container",
            FUNCTIONS,
        ),
        one_group(
            "two_functions_by_iommufd",
            functions(),
            "iommufd",
            FUNCTIONS,
        ),
        one_group(
            "two_bridged_devices_in_a_container",
            bridged(),
            "container",
            DEVICES,
        ),
        one_group(
            "two_bridged_devices_by_iommufd",
            bridged(),
            "iommufd",
            DEVICES,
        ),
    ]
}

/// Where the guest finds the two: as functions of one device, or wherever there is room.
const FUNCTIONS: [(&str, &str); 2] = [
    (",slot=1e.0", "bdf=0000:00:1e.0"),
    (",slot=1e.1", "bdf=0000:00:1e.1"),
];
const DEVICES: [(&str, &str); 2] = [("", "bdf=0000:00:01.0"), ("", "bdf=0000:00:02.0")];

fn one_group(
    name: &'static str,
    disks: [Disk; 2],
    iommu: &str,
    places: [(&'static str, &'static str); 2],
) -> Scenario {
    let [a, b] = [disks[0].bdf(), disks[1].bdf()];
    Scenario {
        name,
        machine: Machine::with_disks(&disks),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "bind_vfio {a}\nbind_vfio {b}\n\
             run_vmm --kernel bzImage --initrd initrd --cpus 2 --memory 512M \
             --cmdline 'quiet panic=-1' --iommu {iommu} --vfio {a}{} --vfio {b}{}\n\
             give_back {a}\ngive_back {b}\n",
            places[0].0, places[1].0,
        ),
        limit: Duration::from_secs(150),
        check: Box::new(move |outcome| {
            let groups: Vec<_> = outcome
                .transcript
                .lab("bound")
                .filter_map(|fact| number(fact, "group"))
                .collect();
            expect(groups.len() == 2 && groups[0] == groups[1], || {
                format!("the two functions are not in one group: {groups:?}")
            })?;
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            quiet(run.messages())?;
            for (disk, (_, place)) in disks.iter().zip(places) {
                let found = format!("serial={} {place}", disk.serial);
                expect(run.guest("disk").any(|fact| fact.contains(&found)), || {
                    format!("the guest has no disk with {found}")
                })?;
                worked(outcome, &run, disk)?;
                back_with_guest_text(outcome, disk)?;
            }
            Ok(())
        }),
    }
}

/// A run with nothing wrong has nothing to warn of, not even at its end.
fn quiet<'a>(messages: impl Iterator<Item = &'a str>) -> Result<()> {
    for line in messages {
        let lower = line.to_lowercase();
        expect(
            !["error", "warn", "cannot", "fail"]
                .iter()
                .any(|word| lower.contains(word)),
            || format!("mini-vmm complains: {line}"),
        )?;
    }
    Ok(())
}
