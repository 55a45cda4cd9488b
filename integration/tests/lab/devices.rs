//! Devices other than NVMe: SATA with an I/O BAR, USB, a network card by each kind of interrupt,
//! memory in a prefetchable BAR, and QEMU's teaching device; each by both interfaces to the IOMMU.

use lab::Result;
use lab::command::{INTERFACES, Vmm};
use lab::disk::{Controller, Disk};
use lab::error::Context;
use lab::expect::{expect, guest};
use lab::machine::NETWORK_CARD;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

const SATA: Disk = Disk::behind("sata-disk", 7, Controller::Sata);

/// The device has no reset, and the root bus has none either.
const NO_RESET: &[&[&str]] = &[&["no-reset"], &["no-reset"]];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("sata_by_msi")
            .disk(SATA)
            .by_each_interface(|_| "".into())
            .degraded(NO_RESET)
            .each_run(|_, run| io_bar(run)),
        Scenario::new("sata_by_its_interrupt_pin")
            .disk(SATA)
            .by_each_interface(|_| Vmm::new("").cmdline("pci=nomsi"))
            .interrupt_chip("IO-APIC")
            .degraded(NO_RESET)
            .each_run(|_, run| io_bar(run)),
        Scenario::new("usb_stick_by_msix")
            .disk(Disk::behind("usb-stick", 8, Controller::Usb))
            .degraded(NO_RESET)
            .by_each_interface(|_| "".into()),
        network("network_by_msix", "", "MSIX", ""),
        network("network_by_its_interrupt_pin", "pci=nomsi ", "IO-APIC", ""),
        shared_memory("memory_shared_through_a_bar"),
        // The device has address lines for 256 MiB of RAM.
        Scenario::new("edu_by_msi_and_by_its_interrupt_pin")
            .qemu(&["-device", "edu,addr=b"])
            .function("0000:00:0b.0")
            .by_each_interface(|_| Vmm::new("--memory 256M").cmdline(EDU))
            .degraded(NO_RESET)
            .each_run(|_, run| edu_did(run)),
    ]
}

/// The guest gave ports to one BAR and memory to another (the kernel's IORESOURCE_IO and _MEM).
fn io_bar(run: &Run<'_>) -> Result<()> {
    let flags: Vec<u64> = run
        .guest("bar")
        .filter_map(|fact| u64::from_str_radix(fact.split_once("flags=0x")?.1, 16).ok())
        .collect();
    let has = |kind: u64| flags.iter().any(|flags| flags & 0x300 == kind);
    expect(has(0x100) && has(0x200), || {
        format!("the guest does not have both ports and memory of the device: {flags:x?}")
    })
}

/// The file that crosses the network has a line for each number up to this one; the guest writes
/// the same lines to compare.
const NUMBERS: u32 = 40_000;

/// QEMU's own network answers pings and serves a file, and no packet leaves L0. `options` are those
/// of the card's `--vfio`.
pub fn network(
    name: &'static str,
    words: &'static str,
    chip: &'static str,
    options: &'static str,
) -> Scenario {
    network_with(name, (words, chip), &[options, options])
}

/// The same, with one run for each of `options`, by one interface and the other in turns.
pub fn network_with(
    name: &'static str,
    (words, chip): (&'static str, &'static str),
    options: &[&str],
) -> Scenario {
    let mut card = NETWORK_CARD;
    card[1] = "user,id=net,restrict=on,tftp={dir}";
    let scenario = Scenario::new(name)
        .qemu(&card)
        .machine(|l1| l1.files.push(("numbers", numbers())))
        .function("0000:00:09.0");
    let rounds = options.iter().zip(INTERFACES.into_iter().cycle());
    rounds
        .fold(scenario, |scenario, (options, interface)| {
            let vmm = Vmm::new("")
                .cmdline(format!("{words}lab.act=net"))
                .devices(format!("--vfio 0000:00:09.0{options}"));
            scenario.vmm(vmm.by(interface))
        })
        .each_run(move |_, run| packets(run, chip))
}

/// The content of the file that crosses the network.
pub fn numbers() -> Vec<u8> {
    let numbers: String = (1..=NUMBERS).map(|n| format!("{n}\n")).collect();
    numbers.into_bytes()
}

/// What the guest's `lab.act=net` must say: pings with answers, interrupts of this chip, the file.
pub fn packets(run: &Run<'_>, chip: &str) -> Result<()> {
    let ping = guest(run, "ping")?;
    expect(ping == "sent=200 received=200", || {
        format!("not all pings were answered: {ping}")
    })?;
    let interrupts = guest(run, "net-interrupts")?;
    let [before, after] = ["before", "after"].map(|name| number(interrupts, name).unwrap_or(0));
    expect(after >= before + 200, || {
        format!("too few interrupts for 200 pings: {interrupts}")
    })?;
    expect(run.guest("irq").any(|line| line.contains(chip)), || {
        format!("no {chip} line of the card is in the guest's /proc/interrupts")
    })?;
    let file = guest(run, "file")?;
    let same = format!("same bytes={}", numbers().len());
    expect(file == same, || {
        format!("the file came as \"{file}\" instead of \"{same}\"")
    })
}

/// Offsets of the words that are written and read. integration/resources/l2-acts.sh has the same.
const SHARED: [usize; 3] = [0, 4096, 1_048_572];

/// The number that the host writes at an offset.
fn from_host(at: usize) -> u32 {
    0x1057_0000 + at as u32
}

/// The number that the guest of a run writes at an offset.
fn from_guest(round: u32, at: usize) -> u32 {
    0x600d_0000 + (round << 24) + at as u32
}

/// The device's third BAR is a file of the host. Host and guest each read what the other wrote, and
/// the second guest reads what the first one wrote.
fn shared_memory(name: &'static str) -> Scenario {
    let mut memory = vec![0; 1 << 20];
    for at in SHARED {
        memory[at..at + 4].copy_from_slice(&from_host(at).to_le_bytes());
    }
    Scenario::new(name)
        .qemu(&[
            "-object",
            "memory-backend-file,id=shared,size=1M,share=on,mem-path={dir}/shared",
            "-device",
            "ivshmem-plain,memdev=shared,addr=a",
        ])
        .machine(|l1| l1.files.push(("shared", memory)))
        .function("0000:00:0a.0")
        .by_each_interface(|round| Vmm::new("").cmdline(format!("lab.act=memory-{round}")))
        .degraded(NO_RESET)
        .each_run(guest_shares)
        .check(host_shares)
}

fn guest_shares(round: u32, run: &Run<'_>) -> Result<()> {
    for at in SHARED {
        let before = match round {
            0 => from_host(at),
            _ => from_guest(round - 1, at),
        };
        for (key, value) in [("shared", before), ("shared-now", from_guest(round, at))] {
            let said = format!("{at} 0x{value:08X}");
            expect(run.guest(key).any(|fact| fact == said), || {
                format!("the guest did not read {value:#x} at {at}")
            })?;
        }
    }
    // 64-bit and prefetchable: the kernel's IORESOURCE_MEM, _PREFETCH and _MEM_64.
    expect(
        run.guest("bar").any(|fact| {
            let flags = fact.split_once("flags=0x").map_or("", |(_, flags)| flags);
            u64::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x10_2200 == 0x10_2200)
        }),
        || "the guest sees no 64-bit prefetchable BAR".into(),
    )
}

fn host_shares(outcome: &Outcome) -> Result<()> {
    let memory = std::fs::read(outcome.dir.join("shared")).context("read the memory")?;
    for at in SHARED {
        let found = u32::from_le_bytes([0, 1, 2, 3].map(|n| memory[at + n]));
        expect(found == from_guest(1, at), || {
            format!("the host finds {found:#x} at {at}, where the last guest wrote")
        })?;
    }
    Ok(())
}

/// The guest has no IOMMU, so its kernel must allow VFIO without an IOMMU.
pub const EDU: &str = "lab.act=edu vfio.enable_unsafe_noiommu_mode=1";

/// The guest's program (integration/src/bin/guest/edu.rs) drives the device by VFIO: factorials,
/// DMA with and without bus mastering, and a hundred interrupts by MSI and by the pin.
pub fn edu_did(run: &Run<'_>) -> Result<()> {
    for (key, said, times) in [
        ("edu", "driver=vfio-pci", 1),
        ("identity", "0x010000ed", 1),
        ("inverted", "0xedcba987", 1),
        ("edu", "irq=Msi raised=100 factorials=2 words=512", 2),
        ("edu", "irq=Intx raised=100 factorials=2 words=512", 1),
        ("level", "again=2", 1),
        ("dma-off", "words=0", 1),
    ] {
        let found = run.guest(key).filter(|fact| *fact == said).count();
        expect(found == times, || {
            let facts: Vec<_> = run.guest(key).collect();
            format!("the guest said {key} {facts:?}, and not \"{said}\" {times} times")
        })?;
    }
    for (irq, chip) in [("Msi", "PCI-MSI"), ("Intx", "IO-APIC")] {
        expect(
            run.guest("irq")
                .any(|line| line.starts_with(irq) && line.contains(chip)),
            || format!("no {chip} line of the device is in the guest's /proc/interrupts"),
        )?;
    }
    Ok(())
}
