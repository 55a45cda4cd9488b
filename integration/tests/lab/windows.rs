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
    expect(run.guest("slot").count() == ports, || {
        "not each port is a slot for hot-plug".into()
    })?;
    let osc = guest(run, "osc")?;
    expect(
        osc == "_OSC: OS now controls [PCIeHotplug PCIeCapability]",
        || format!("the guest controls something else: {osc}"),
    )
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
