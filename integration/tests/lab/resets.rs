//! Reboots of a guest whose devices cannot be reset one by one.

use lab::Result;
use lab::command::Vmm;
use lab::disk::{Controller, Disk};
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::transcript::Run;

/// Two functions that the kernel can only reset together, by their bus.
const DISKS: [Disk; 2] = [
    Disk::behind("first-function", 0, Controller::SataBehindPort),
    Disk::behind("second-function", 0, Controller::SataBehindPort).at_function(1),
];

pub fn all() -> Vec<Scenario> {
    vec![
        together("a_bus_is_reset_in_a_container", "container"),
        together("a_bus_is_reset_by_iommufd", "iommufd").degraded(&[&["no-peer-to-peer"]]),
    ]
}

fn together(name: &'static str, iommu: &str) -> Scenario {
    let vmm = Vmm::new(format!("--verbose --memory 512M --iommu {iommu}"))
        .cmdline("lab.act=reboot-once")
        .boots(2);
    Scenario::new(name)
        .disks(&DISKS)
        .vmm(vmm)
        .each_run(|_, run| reset_together(run))
}

fn reset_together(run: &Run<'_>) -> Result<()> {
    let both = format!("{} and {} had a hot reset", DISKS[0].bdf(), DISKS[1].bdf());
    let told: Vec<_> = run.messages().filter(|line| line.contains(&both)).collect();
    let first = told
        .first()
        .is_some_and(|line| line.contains("before the first boot"));
    expect(told.len() == 2 && first, || {
        format!("mini-vmm did not say before both boots that {both}: {told:?}")
    })?;
    expect(run.guest("done").eq(["reboot", "poweroff"]), || {
        "the guest did not reboot and then power off".into()
    })?;
    for disk in &DISKS {
        let texts = run
            .guest("text")
            .filter(|text| text.starts_with(disk.serial))
            .count();
        expect(texts == 2, || {
            format!("the guest read {} in {texts} of its 2 boots", disk.serial)
        })?;
    }
    Ok(())
}
