//! Devices other than NVMe: SATA with an I/O BAR, USB, a network card by each kind of interrupt,
//! memory in a prefetchable BAR, and QEMU's teaching device; each by both interfaces to the IOMMU.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::error::Context;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, number};

use lab::expect::{back_with_guest_text, expect, guest, worked_by};

use crate::both;

const LIMIT: Duration = Duration::from_secs(150);

pub fn all() -> Vec<Scenario> {
    let sata = || Disk::wired("sata-disk", 7, Wiring::Sata);
    let usb = || Disk::wired("usb-stick", 8, Wiring::Usb);
    vec![
        disk("sata_by_msi", sata(), "", "MSI"),
        disk("sata_by_its_interrupt_pin", sata(), "pci=nomsi", "IO-APIC"),
        disk("usb_stick_by_msix", usb(), "", "MSI"),
        network("network_by_msix", "", "MSIX"),
        network("network_by_its_interrupt_pin", "pci=nomsi", "IO-APIC"),
        shared_memory(),
        edu(),
    ]
}

fn disk(name: &'static str, disk: Disk, cmdline: &str, controller: &'static str) -> Scenario {
    let bdf = disk.bdf();
    Scenario {
        name,
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "{}give_back {bdf}\n",
            both::script(&bdf, "", |_| cmdline.into())
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            both::check(outcome, |_, run| {
                worked_by(outcome, run, &disk, controller)?;
                if disk.wiring == Wiring::Sata {
                    io_bar(run.guest("bar"))?;
                }
                Ok(())
            })?;
            back_with_guest_text(outcome, &disk)
        }),
    }
}

/// The guest gave ports to one BAR and memory to another (the kernel's IORESOURCE_IO and _MEM).
fn io_bar<'a>(facts: impl Iterator<Item = &'a str>) -> Result<()> {
    let flags: Vec<u64> = facts
        .filter_map(|fact| u64::from_str_radix(fact.split_once("flags=0x")?.1, 16).ok())
        .collect();
    let has = |kind: u64| flags.iter().any(|flags| flags & 0x300 == kind);
    expect(has(0x100) && has(0x200), || {
        format!("the guest does not have both ports and memory of the device: {flags:x?}")
    })
}

/// The file that crosses the network holds the numbers to this one, a line each: the guest counts too.
const NUMBERS: u32 = 40_000;

/// QEMU's own network answers pings, and serves a file, without a packet leaving L0.
fn network(name: &'static str, cmdline: &str, controller: &'static str) -> Scenario {
    let numbers: String = (1..=NUMBERS).map(|n| format!("{n}\n")).collect();
    let same = format!("same bytes={}", numbers.len());
    let mut machine = Machine::with_device(&[
        "-netdev",
        "user,id=net,restrict=on,tftp={dir}",
        "-device",
        "e1000e,netdev=net,addr=9,romfile=",
    ]);
    machine.files.push(("numbers", numbers.into_bytes()));
    Scenario {
        name,
        machine,
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: both::script("0000:00:09.0", "", |_| format!("{cmdline} lab.act=net")),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            both::check(outcome, |_, run| packets(run, controller, &same))
        }),
    }
}

fn packets(run: &Run<'_>, controller: &str, same: &str) -> Result<()> {
    let ping = guest(run, "ping")?;
    expect(ping == "sent=200 received=200", || {
        format!("not all pings were answered: {ping}")
    })?;
    let interrupts = guest(run, "net-interrupts")?;
    let [before, after] = ["before", "after"].map(|name| number(interrupts, name).unwrap_or(0));
    expect(after >= before + 200, || {
        format!("too few interrupts for 200 pings: {interrupts}")
    })?;
    expect(
        run.guest("irq").any(|line| line.contains(controller)),
        || format!("no {controller} line of the card is in the guest's /proc/interrupts"),
    )?;
    let file = guest(run, "file")?;
    expect(file == same, || {
        format!("the file came as \"{file}\" instead of \"{same}\"")
    })
}

/// Offsets of the words that are written and read; integration/resources/l2-acts.sh has them too.
const SHARED: [usize; 3] = [0, 4096, 1_048_572];

/// What the host leaves at an offset.
fn from_host(at: usize) -> u32 {
    0x1057_0000 + at as u32
}

/// What the guest of a run leaves there.
fn from_guest(round: u32, at: usize) -> u32 {
    0x600d_0000 + (round << 24) + at as u32
}

/// The device's third BAR is a file of the host's: written by each, read by the other. The second
/// guest finds what the first one left.
fn shared_memory() -> Scenario {
    let mut memory = vec![0; 1 << 20];
    for at in SHARED {
        memory[at..at + 4].copy_from_slice(&from_host(at).to_le_bytes());
    }
    let mut machine = Machine::with_device(&[
        "-object",
        "memory-backend-file,id=shared,size=1M,share=on,mem-path={dir}/shared",
        "-device",
        "ivshmem-plain,memdev=shared,addr=a",
    ]);
    machine.files.push(("shared", memory));
    Scenario {
        name: "memory_shared_through_a_bar",
        machine,
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: both::script("0000:00:0a.0", "", |round| {
            format!("lab.act=memory-{round}")
        }),
        limit: LIMIT,
        check: Box::new(|outcome| {
            both::check(outcome, shared)?;
            let memory = std::fs::read(outcome.dir.join("shared")).context("read the memory")?;
            for at in SHARED {
                let found = u32::from_le_bytes([0, 1, 2, 3].map(|n| memory[at + n]));
                expect(found == from_guest(1, at), || {
                    format!("the host finds {found:#x} at {at}, where the last guest wrote")
                })?;
            }
            Ok(())
        }),
    }
}

fn shared(round: u32, run: &Run<'_>) -> Result<()> {
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

/// A program of the guest's drives the device by VFIO, as it would on a host: factorials, DMA that bus
/// mastering stops, interrupts by MSI and by the pin, each raised and acknowledged a hundred times.
fn edu() -> Scenario {
    Scenario {
        name: "edu_by_msi_and_by_its_interrupt_pin",
        machine: Machine::with_device(&["-device", "edu,addr=b"]),
        kernel: Choice::Lab,
        image: Image::BzImage,
        // The device has address lines for as much.
        script: both::script("0000:00:0b.0", "--memory 256M", |_| {
            "lab.act=edu vfio.enable_unsafe_noiommu_mode=1".into()
        }),
        limit: LIMIT,
        check: Box::new(|outcome| both::check(outcome, |_, run| edu_did(run))),
    }
}

fn edu_did(run: &Run<'_>) -> Result<()> {
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
    for (irq, controller) in [("Msi", "PCI-MSI"), ("Intx", "IO-APIC")] {
        expect(
            run.guest("irq")
                .any(|line| line.starts_with(irq) && line.contains(controller)),
            || format!("no {controller} line of the device is in the guest's /proc/interrupts"),
        )?;
    }
    Ok(())
}
