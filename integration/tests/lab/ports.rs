//! Devices behind root ports of the guest: each kind of interrupt, reboots, and more devices than
//! bus 0 has device numbers.

use lab::Result;
use lab::command::Vmm;
use lab::disk::{Controller, Disk};
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::transcript::{Run, value};

use crate::devices;

const DISK: Disk = Disk::new("lab-disk", 5);
const STICK: Disk = Disk::behind("usb-stick", 8, Controller::Usb);
const STICK_BY_MSI: Disk = Disk::behind("usb-stick", 8, Controller::UsbByMsi);

/// The device has no reset, and the root bus of L1 has none either.
const NO_RESET: &[&[&str]] = &[&["no-reset"], &["no-reset"]];

const BEHIND: &str = ",port=on";

pub fn all() -> Vec<Scenario> {
    let by_pin = |_| Vmm::new("--memory 512M").cmdline("pci=nomsi");
    vec![
        Scenario::new("nvme_behind_a_root_port")
            .disk_with(DISK, BEHIND)
            .by_each_interface(|_| Vmm::new("--memory 512M"))
            .each_run(|_, run| is_behind_a_port(run, "nvme")),
        Scenario::new("nvme_behind_a_root_port_by_its_pin")
            .disk_with(DISK, BEHIND)
            .by_each_interface(by_pin)
            .interrupt_chip("IO-APIC")
            .each_run(|_, run| is_behind_a_port(run, "nvme")),
        Scenario::new("usb_behind_a_root_port_by_msix")
            .disk_with(STICK, BEHIND)
            .by_each_interface(|_| "".into())
            .degraded(NO_RESET)
            .each_run(|_, run| is_behind_a_port(run, "xhci_hcd")),
        Scenario::new("usb_behind_a_root_port_by_msi")
            .disk_with(STICK_BY_MSI, BEHIND)
            .by_each_interface(|_| "".into())
            .degraded(NO_RESET)
            .each_run(|_, run| is_behind_a_port(run, "xhci_hcd")),
        Scenario::new("usb_behind_a_root_port_by_its_pin")
            .disk_with(STICK, BEHIND)
            .by_each_interface(by_pin)
            .interrupt_chip("IO-APIC")
            .degraded(NO_RESET)
            .each_run(|_, run| is_behind_a_port(run, "xhci_hcd")),
        devices::network("network_behind_a_root_port", "", "MSIX", BEHIND),
        devices::network(
            "network_behind_a_root_port_by_its_pin",
            "pci=nomsi ",
            "IO-APIC",
            BEHIND,
        ),
        Scenario::new("the_disk_behind_a_port_works_after_a_reboot")
            .limit(180)
            .disk_with(DISK, BEHIND)
            .vmm(
                Vmm::new("-v --memory 512M")
                    .cmdline("lab.act=reboot-once")
                    .boots(2),
            )
            .each_run(|_, run| is_behind_a_port(run, "nvme")),
    ]
}

/// The guest's driver has the device, whose bus is not the root's, and its port is there.
fn is_behind_a_port(run: &Run<'_>, driver: &str) -> Result<()> {
    let functions: Vec<_> = run.guest("pci").collect();
    let on_bus_1 =
        |fact: &&&str| fact.starts_with("0000:01:00.0 ") && value(fact, "driver") == Some(driver);
    let port = |fact: &&&str| {
        fact.starts_with("0000:00:01.0 ") && value(fact, "class") == Some("0x060400")
    };
    let both = functions
        .iter()
        .find(on_bus_1)
        .and(functions.iter().find(port));
    expect(both.is_some(), || {
        format!("{driver} has no device behind a root port: {functions:?}")
    })
}
