//! What firmware does for root ports: bus numbers, windows, and who controls hot-plug. A guest's
//! kernel leaves all of it as it is.

use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, guest};
use lab::kernel::Choice;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number, value};
use lab::{Error, Result};

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("windows_of_two_empty_root_ports")
            .vmm(Vmm::new("-v --ports 2").cmdline("lab.act=windows"))
            .each_run(|_, run| as_set(run, 2)),
        windows("windows_stay_as_firmware_sets_them", Choice::Lab),
        windows(
            "windows_stay_as_firmware_sets_them_stock_kernel",
            Choice::Stock,
        ),
        large_bar(),
    ]
}

/// A disk behind a port of its own, and three empty ports: one has I/O ports, none the default
/// sizes.
fn windows(name: &'static str, kernel: Choice) -> Scenario {
    let vmm = "-v --memory 512M --ports 3,mem32=16M,mem64=2G,io=on";
    Scenario::new(name)
        .kernel(kernel)
        .disk_with(DISK, ",port=on")
        .vmm(Vmm::new(vmm).cmdline("lab.act=windows"))
        .each_run(|_, run| as_set(run, 4))
        .check(large)
}

/// An NVMe controller with 4 GiB of persistent memory in a prefetchable 64-bit BAR.
fn large_bar() -> Scenario {
    const HOST: &str = "0000:00:1a.0";
    const SIZE: u64 = 4 << 30;
    let vmm = Vmm::new("-v --memory 512M")
        .cmdline("lab.act=windows lab.disks=none")
        .devices(format!("--vfio {HOST},port=on"));
    Scenario::new("a_bar_of_4_gib_behind_a_root_port")
        .qemu(&[
            "-object",
            "memory-backend-ram,id=pmr,size=4G",
            "-device",
            "nvme,serial=large,pmrdev=pmr,addr=1a",
        ])
        .function(HOST)
        .vmm(vmm)
        .each_run(|_, run| {
            as_set(run, 1)?;
            let all = set(run)?;
            let windows = all.iter().flat_map(|port| &port.windows);
            let mut large = windows.filter(|(name, first, last)| {
                *name == "mem64" && *first >= 1 << 32 && last - first + 1 >= SIZE
            });
            let (_, start, _) = large
                .next()
                .ok_or_else(|| Error::failed("no port has a window of 4 GiB"))?;
            let bar = format!("0000:01:00.0 4 0x{start:016x}-0x{:016x} ", start + SIZE - 1);
            expect(run.guest("bar").any(|fact| fact.starts_with(&bar)), || {
                let bars: Vec<_> = run.guest("bar").collect();
                format!("the guest has no BAR {bar}: {bars:?}")
            })?;
            let wanted = "0000:01:00.0 id=0x1b36:0x0010 class=0x010802 driver=nvme";
            expect(run.guest("pci").any(|fact| fact == wanted), || {
                "the guest's driver does not have the controller".into()
            })
        })
}

/// The registers of bus numbers and windows of a port that mini-vmm has set: the buses, and first
/// and last address of each open window, as the words of its message.
struct Set<'a> {
    port: &'a str,
    bus: u64,
    windows: Vec<(&'a str, u64, u64)>,
}

/// Parses "root port 0000:00:01.0 has bus 1, mem32 0xc0000000-0xc00fffff, ...".
fn set<'a>(run: &Run<'a>) -> Result<Vec<Set<'a>>> {
    let lines = run.messages().filter_map(|line| {
        let (_, line) = line.split_once("root port ")?;
        line.split_once(" has bus ")
    });
    let parse = |(port, rest): (&'a str, &'a str)| {
        let mut parts = rest.trim_end().split(", ");
        let bus = parts.next()?.parse().ok()?;
        let windows = parts.map(|part| {
            let (name, range) = part.split_once(' ')?;
            let (first, last) = range.split_once('-')?;
            let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
            Some((name, hex(first)?, hex(last)?))
        });
        let windows = windows.collect::<Option<_>>()?;
        Some(Set { port, bus, windows })
    };
    let all: Option<Vec<_>> = lines.map(parse).collect();
    all.ok_or_else(|| Error::failed("a message about a root port has another form"))
}

/// The guest has all ports with the buses and windows that were set, gave no address itself, and
/// controls hot-plug.
fn as_set(run: &Run<'_>, ports: usize) -> Result<()> {
    let all = set(run)?;
    expect(all.len() == ports, || {
        format!("{} root ports were set instead of {ports}", all.len())
    })?;
    for port in &all {
        let fact = run.guest("port").find(|fact| fact.starts_with(port.port));
        let fact = fact.ok_or_else(|| Error::failed(format!("the guest has no {}", port.port)))?;
        let buses = ["bus", "last"].map(|name| number(fact, name));
        expect(buses == [Some(port.bus); 2], || {
            format!("bus {} was set: {fact}", port.bus)
        })?;
        let registers = value(fact, "registers").unwrap_or_default();
        let wanted = registers_of(port);
        let have = registers.get(..wanted.len());
        expect(have == Some(wanted.as_str()), || {
            format!("{wanted} were the registers of {}: {fact}", port.port)
        })?;
        for (name, first, last) in &port.windows {
            let file = if *name == "io" { "ioports" } else { "iomem" };
            let width = if *name == "io" { 4 } else { 8 };
            let bus = port.bus;
            let line = format!("{file} {first:0width$x}-{last:0width$x} : PCI Bus 0000:{bus:02x}");
            expect(run.guest("window").any(|fact| fact == line), || {
                format!("the guest's kernel has no window {line}")
            })?;
        }
    }
    expect(run.guest("port").count() == ports, || {
        "the guest has a bridge that was not set".into()
    })?;
    if let Some(changed) = run.guest("changed").next() {
        return Err(Error::failed(format!("the kernel said: {changed}")));
    }
    slots(run, &all)?;
    let osc = guest(run, "osc")?;
    expect(
        osc == "_OSC: OS now controls [PCIeHotplug PCIeCapability]",
        || format!("the guest controls something else: {osc}"),
    )
}

/// Each port is a slot of the number that mini-vmm gives it, and the guest's driver for hot-plug
/// has the port's service (drivers/pci/pcie/portdrv.h: 4 is PCIE_PORT_SERVICE_HP).
fn slots(run: &Run<'_>, ports: &[Set<'_>]) -> Result<()> {
    for port in ports {
        let (bdf, bus) = (port.port, port.bus);
        let bad = || Error::failed(format!("the port {bdf} has no address"));
        let (device, function) = bdf
            .get(8..)
            .and_then(|at| at.split_once('.'))
            .ok_or_else(bad)?;
        let device = u8::from_str_radix(device, 16).map_err(|_| bad())?;
        let function = u8::from_str_radix(function, 16).map_err(|_| bad())?;
        let slot = format!("{} address=0000:{bus:02x}:00", function << 5 | device);
        expect(run.guest("slot").any(|fact| fact == slot), || {
            let slots: Vec<_> = run.guest("slot").collect();
            format!("the port {bdf} is not the slot {slot}: {slots:?}")
        })?;
        let service = format!("{bdf}:pcie004 driver=pciehp");
        expect(run.guest("hot-plug").any(|fact| fact == service), || {
            let services: Vec<_> = run.guest("hot-plug").collect();
            format!("there is no {service}: {services:?}")
        })?;
    }
    expect(run.guest("slot").count() == ports.len(), || {
        "a slot is not one of the ports".into()
    })
}

/// The registers 0x18 to 0x33 of a port in hexadecimal, with the numbers and windows that were set
/// (PCI Express 6.0, 7.5.1.3). The two status bytes in between are zero.
fn registers_of(port: &Set<'_>) -> String {
    let window = |name: &str, closed: (u64, u64)| {
        let found = port.windows.iter().find(|(n, ..)| *n == name);
        found.map_or(closed, |(_, first, last)| (*first, *last))
    };
    let mut bytes = vec![0, port.bus as u8, port.bus as u8, 0];
    // The low four bits say that ports have 16 address bits; zeros that there is no window.
    let (first, last) = window("io", (0, 0));
    bytes.extend([(first >> 8) as u8 & 0xf0, (last >> 8) as u8 & 0xf0, 0, 0]);
    let (first, last) = window("mem32", (0xfff0_0000, 0));
    let upper = |address: u64| ((address >> 16) as u16 & 0xfff0).to_le_bytes();
    bytes.extend([upper(first), upper(last)].concat());
    let (first, last) = window("mem64", (0xfff0_0000, 0));
    // The low four bits say that the addresses have 64 bits.
    let upper = |address: u64| ((address >> 16) as u16 & 0xfff0 | 1).to_le_bytes();
    bytes.extend([upper(first), upper(last)].concat());
    for address in [first, last] {
        bytes.extend(((address >> 32) as u32).to_le_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The three empty ports have what the user asked for.
fn large(outcome: &Outcome) -> Result<()> {
    let run = lab::expect::run(outcome, 0)?;
    let all = set(&run)?;
    let sizes = |name: &str| {
        let windows = all.iter().flat_map(|port| &port.windows);
        let mut sizes: Vec<_> = windows
            .filter(|(n, ..)| *n == name)
            .map(|(_, first, last)| last - first + 1)
            .collect();
        sizes.sort_unstable();
        sizes.split_off(sizes.len().saturating_sub(3))
    };
    let sizes = ["mem32", "mem64", "io"].map(sizes);
    let wanted = [16 << 20, 2 << 30, 0x1000].map(|size| vec![size; 3]);
    expect(sizes == wanted, || format!("the windows have {sizes:x?}"))
}
