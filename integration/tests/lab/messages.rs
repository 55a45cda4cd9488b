//! How many MSI messages a guest may ask for: as many as the host can give.
//!
//! Linux gives a device several MSI messages where the IOMMU remaps interrupts, and one where it does
//! not. The device has 16; a guest must read the number that it can have.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::expect::{back_with_guest_text, ended_well, expect, run, worked};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Outcome, Scenario};
use lab::transcript::number;

const LIMIT: Duration = Duration::from_secs(150);

pub fn all() -> Vec<Scenario> {
    vec![
        messages("all_msi_messages_of_a_usb_controller", true, ""),
        messages(
            "one_msi_message_without_interrupt_remapping",
            false,
            "echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts\n",
        ),
    ]
}

fn messages(name: &'static str, remapping: bool, before: &str) -> Scenario {
    let disk = Disk::wired("usb-stick", 8, Wiring::UsbByMsi);
    let bdf = disk.bdf();
    Scenario {
        name,
        machine: Machine {
            remapping,
            ..Machine::with_disks(std::slice::from_ref(&disk))
        },
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "{before}bind_vfio {bdf}\n\
             run_vmm --kernel bzImage --initrd initrd --memory 512M --iommu container \
             --cmdline 'quiet panic=-1 lab.act=messages' --vfio {bdf}\n\
             give_back {bdf}\n"
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| check(outcome, &disk, remapping)),
    }
}

fn check(outcome: &Outcome, disk: &Disk, remapping: bool) -> Result<()> {
    let run = run(outcome, 0)?;
    ended_well(&run)?;
    worked(outcome, &run, disk)?;
    let facts: Vec<_> = run.guest("messages").collect();
    let seen = facts
        .iter()
        .map(|fact| ["on", "capable", "used"].map(|key| number(fact, key).unwrap_or(0)));
    let most = if remapping { 16 } else { 1 };
    expect(seen.eq([[1, most, 1]]), || {
        format!("the guest does not see one message of {most} in use: {facts:?}")
    })?;
    back_with_guest_text(outcome, disk)
}
