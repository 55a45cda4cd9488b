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
            .by_each_interface(|_| Vmm::new("--memory 512M --stats"))
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
        forty(),
    ]
}

/// The USB controllers of the scenario with many devices: more than bus 0 has device numbers.
const CONTROLLERS: usize = 40;

/// Each controller is behind a root port of L1, and behind one of the guest. Eight of the guest's
/// ports are the functions of one device.
fn forty() -> Scenario {
    let mut arguments = Vec::new();
    for n in 0..CONTROLLERS {
        let (device, function) = (0x10 + n / 8, n % 8);
        let port = format!(
            "pcie-root-port,id=port{n},chassis={},addr={device:x}.{function},multifunction=on",
            n + 1
        );
        let controller = format!("qemu-xhci,bus=port{n}");
        for argument in ["-device".into(), port, "-device".into(), controller] {
            arguments.push(argument);
        }
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let addresses = (1..=CONTROLLERS).map(|bus| format!("0000:{bus:02x}:00.0"));
    let options = addresses.clone().map(|at| format!("--vfio {at},port=on"));
    let options = options.collect::<Vec<_>>().join(" ");
    let vmm = Vmm::new("--memory 512M --iommu container")
        .cmdline("lab.disks=none")
        .devices(options);
    let scenario = Scenario::new("forty_usb_controllers_behind_root_ports")
        .slow()
        .limit(600)
        .qemu(&arguments);
    addresses
        .fold(scenario, |scenario, at| scenario.function(&at))
        .vmm(vmm)
        .each_run(|_, run| all_forty(run))
}

/// The guest finds all of them, each behind a port of its own. Its kernel has numbers for 63 USB
/// buses, and a controller takes two, so its driver uses 31.
fn all_forty(run: &Run<'_>) -> Result<()> {
    let functions: Vec<_> = run.guest("pci").collect();
    let count = |on_root: bool, key: &str, wanted: &str| {
        let found = functions.iter().filter(|fact| {
            fact.starts_with("0000:00:") == on_root && value(fact, key) == Some(wanted)
        });
        found.count()
    };
    let counts = (
        count(false, "class", "0x0c0330"),
        count(true, "class", "0x060400"),
    );
    let used = count(false, "driver", "xhci_hcd");
    expect(counts == (CONTROLLERS, CONTROLLERS) && used == 31, || {
        format!(
            "the guest uses {used} of {} controllers behind {} ports",
            counts.0, counts.1
        )
    })
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
