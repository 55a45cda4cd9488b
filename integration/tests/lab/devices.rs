//! Devices other than NVMe: SATA with an I/O BAR, USB, a network card by each kind of interrupt,
//! memory in a prefetchable BAR, and QEMU's teaching device.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::error::Context;
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::number;

use lab::expect::{back_with_guest_text, ended_well, expect, guest, run, worked_by};

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
        sums(),
    ]
}

/// One run of mini-vmm with a device that is no disk.
fn script(bdf: &str, cmdline: &str) -> String {
    format!(
        "bind_vfio {bdf}\n\
         run_vmm --kernel bzImage --initrd initrd --memory 512M \
         --cmdline 'quiet panic=-1 {cmdline}' --vfio {bdf}\n"
    )
}

fn disk(name: &'static str, disk: Disk, cmdline: &str, controller: &'static str) -> Scenario {
    let bdf = disk.bdf();
    Scenario {
        name,
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!(
            "bind_vfio {bdf}\n\
             run_vmm --kernel bzImage --initrd initrd --memory 512M \
             --cmdline 'quiet panic=-1 {cmdline}' --vfio {bdf}\n\
             give_back {bdf}\n"
        ),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            worked_by(outcome, &run, &disk, controller)?;
            if disk.wiring == Wiring::Sata {
                io_bar(run.guest("bar"))?;
            }
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
        script: script("0000:00:09.0", &format!("{cmdline} lab.act=net")),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            let ping = guest(&run, "ping")?;
            expect(ping == "sent=200 received=200", || {
                format!("not all pings were answered: {ping}")
            })?;
            let interrupts = guest(&run, "net-interrupts")?;
            let [before, after] =
                ["before", "after"].map(|name| number(interrupts, name).unwrap_or(0));
            expect(after >= before + 200, || {
                format!("too few interrupts for 200 pings: {interrupts}")
            })?;
            expect(
                run.guest("irq").any(|line| line.contains(controller)),
                || format!("no {controller} line of the card is in the guest's /proc/interrupts"),
            )?;
            let file = guest(&run, "file")?;
            expect(file == same, || {
                format!("the file came as \"{file}\" instead of \"{same}\"")
            })
        }),
    }
}

/// Offsets of the words that are written and read; resources/l2-acts.sh has them too.
const SHARED: [usize; 3] = [0, 4096, 1_048_572];

/// What the host leaves at an offset.
fn from_host(at: usize) -> u32 {
    0x1057_0000 + at as u32
}

/// What the guest leaves there.
fn from_guest(at: usize) -> u32 {
    0x600d_0000 + at as u32
}

/// The device's third BAR is a file of the host's: written by each, read by the other.
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
        script: script("0000:00:0a.0", "lab.act=memory"),
        limit: LIMIT,
        check: Box::new(|outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            let memory = std::fs::read(outcome.dir.join("shared")).context("read the memory")?;
            for at in SHARED {
                for (key, value) in [("shared", from_host(at)), ("shared-now", from_guest(at))] {
                    let said = format!("{at} 0x{value:08X}");
                    expect(run.guest(key).any(|fact| fact == said), || {
                        format!("the guest did not read {value:#x} at {at}")
                    })?;
                }
                let found = u32::from_le_bytes([0, 1, 2, 3].map(|n| memory[at + n]));
                expect(found == from_guest(at), || {
                    format!("the host finds {found:#x} at {at}, where the guest wrote")
                })?;
            }
            // 64-bit and prefetchable: the kernel's IORESOURCE_MEM, _PREFETCH and _MEM_64.
            expect(
                run.guest("bar").any(|fact| {
                    let flags = fact.split_once("flags=0x").map_or("", |(_, flags)| flags);
                    u64::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x10_2200 == 0x10_2200)
                }),
                || "the guest sees no 64-bit prefetchable BAR".into(),
            )
        }),
    }
}

/// Factorials, the interrupt pin, and DMA that bus mastering stops.
fn sums() -> Scenario {
    Scenario {
        name: "edu_counts_interrupts_and_copies",
        machine: Machine::with_device(&["-device", "edu,addr=b"]),
        kernel: Choice::Lab,
        image: Image::BzImage,
        // The guest's kernel leaves 64 KiB at 128 MiB alone.
        script: script("0000:00:0b.0", "lab.act=edu memmap=64K$0x8000000"),
        limit: LIMIT,
        check: Box::new(|outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            for (key, said) in [
                ("edu", "driver=uio_pci_generic"),
                ("inverted", "0xEDCBA987"),
                ("factorial", "of=5 is=120"),
                ("factorial", "of=12 is=479001600"),
                // COMMAND's bit 10 is INTx-disable, which the kernel set when it was interrupted.
                ("pin", "round=1 status=1 command=0402"),
                ("pin", "round=2 status=2 command=0402"),
                ("pin", "round=3 status=3 command=0402"),
                ("pin-interrupts", "3"),
                ("dma-off", "words=0"),
                ("dma-on", "words=64"),
            ] {
                expect(run.guest(key).any(|fact| fact == said), || {
                    let facts: Vec<_> = run.guest(key).collect();
                    format!("the guest said {key} {facts:?}, and not \"{said}\"")
                })?;
            }
            Ok(())
        }),
    }
}
