//! Devices that have no reset of their own, at a guest's reboot.

use std::time::Duration;

use lab::disk::{Disk, Wiring};
use lab::expect::{back_with_guest_text, ended_well, expect, run, worked};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};

pub fn all() -> Vec<Scenario> {
    vec![
        together("a_bus_is_reset_in_a_container", "container"),
        together("a_bus_is_reset_by_iommufd", "iommufd"),
    ]
}

/// Two functions that the kernel can only reset together, by their bus, and both are the guest's.
fn together(name: &'static str, iommu: &str) -> Scenario {
    let mut disks = ["first-function", "second-function"]
        .map(|serial| Disk::wired(serial, 0, Wiring::SataBehindPort));
    disks[1].function = 1;
    let [a, b] = [disks[0].bdf(), disks[1].bdf()];
    let both = format!("{a} and {b} had a hot reset");
    Scenario {
        name,
        machine: Machine::with_disks(&disks),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "bind_vfio {a}\nbind_vfio {b}\n\
             run_vmm --verbose --kernel bzImage --initrd initrd --memory 512M \
             --cmdline 'quiet panic=-1 lab.act=reboot-once' --iommu {iommu} --vfio {a} --vfio {b}\n\
             give_back {a}\ngive_back {b}\n",
        ),
        limit: Duration::from_secs(150),
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            let told = |what: &str| run.messages().filter(|line| line.contains(what)).count();
            expect(told("has no reset of its own") == 2, || {
                "the functions have a reset of their own".into()
            })?;
            expect(told(&both) == 1, || {
                format!("mini-vmm said {} times, not once, that {both}", told(&both))
            })?;
            expect(run.guest("done").eq(["reboot", "poweroff"]), || {
                "the guest did not reboot and then power off".into()
            })?;
            for disk in &disks {
                let texts = run
                    .guest("text")
                    .filter(|text| text.starts_with(disk.serial))
                    .count();
                expect(texts == 2, || {
                    format!("the guest read {} in {texts} of its 2 boots", disk.serial)
                })?;
                worked(outcome, &run, disk)?;
                back_with_guest_text(outcome, disk)?;
            }
            Ok(())
        }),
    }
}
