//! The number of MSI messages that a guest may use.
//!
//! Linux gives a device several MSI messages if the IOMMU remaps interrupts, otherwise one message.
//! The device has 16 messages. The guest must read the number that the host can give.

use lab::Result;
use lab::command::Vmm;
use lab::disk::{Controller, Disk};
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

const STICK: Disk = Disk::behind("usb-stick", 8, Controller::UsbByMsi);

pub fn all() -> Vec<Scenario> {
    let vmm = || Vmm::new("--memory 512M --iommu container").cmdline("lab.act=messages");
    vec![
        Scenario::new("all_msi_messages_of_a_usb_controller")
            .disk(STICK)
            .vmm(vmm())
            .each_run(|_, run| capable_of(run, 16))
            .degraded(&[&["no-reset"]]),
        Scenario::new("one_msi_message_without_interrupt_remapping")
            .machine(|l1| l1.remapping = false)
            .before("echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts")
            .disk(STICK)
            .vmm(vmm())
            .each_run(|_, run| capable_of(run, 1))
            .degraded(&[&["fewer-msi-vectors", "no-reset"]]),
    ]
}

fn capable_of(run: &Run<'_>, most: u64) -> Result<()> {
    let facts: Vec<_> = run.guest("messages").collect();
    let seen = facts
        .iter()
        .map(|fact| ["on", "capable", "used"].map(|key| number(fact, key).unwrap_or(0)));
    expect(seen.eq([[1, most, 1]]), || {
        format!("the guest does not see one message of {most} in use: {facts:?}")
    })
}
