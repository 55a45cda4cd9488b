//! Display controllers: an expansion ROM, and a frame buffer in a prefetchable BAR.
//!
//! The first of two is VGA, which L1's firmware has initialised: L1's kernel shows the firmware's
//! copy of the ROM at 0xc0000 as the device's ROM. The second one's ROM is in its own BAR.

use lab::Result;
use lab::command::Vmm;
use lab::expect::{expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, value};

const VGA: &str = "0000:00:0c.0";
const BOCHS: &str = "0000:00:0d.0";
/// Bytes of each frame buffer.
const FRAME_BUFFER: u64 = 16 << 20;

pub fn all() -> Vec<Scenario> {
    vec![displays()]
}

/// The devices' own ROMs by each interface to the IOMMU, then a ROM from a file and a device
/// without a ROM. The guest's slots are the host's, so that facts of both have the same address.
fn displays() -> Scenario {
    let vmm = |options: &str, vga: &str, bochs: &str| {
        Vmm::new(format!("--memory 256M {options}"))
            .cmdline("lab.act=displays")
            .devices(format!(
                "--vfio {VGA},slot=0c{vga} --vfio {BOCHS},slot=0d{bochs}"
            ))
    };
    Scenario::new("displays_with_a_rom_and_a_frame_buffer")
        .limit(200)
        .qemu(&["-device", "VGA,addr=c", "-device", "bochs-display,addr=d"])
        .before(say_roms())
        .function(VGA)
        .function(BOCHS)
        .vmm(vmm("--iommu container", "", ""))
        .vmm(vmm("--iommu iommufd", "", ""))
        .vmm(vmm("", ",romfile=/run/file.rom", ",rombar=off"))
        .l1(say_roms_again())
        // The displays and the root bus have no reset, and this kernel's iommufd cannot map BARs.
        .degraded(&[
            &["no-reset"],
            &["no-peer-to-peer", "no-reset"],
            &["no-peer-to-peer", "no-reset"],
        ])
        .check(check)
}

/// L1 reads both ROMs, and makes a file of the VGA's ROM with other bytes at one offset.
fn say_roms() -> String {
    format!(
        "say_rom rom-before {BOCHS}\nsay_rom rom-before {VGA}\n\
         cp /run/rom /run/file.rom\n\
         printf 'not the ROM of the device' | \
         dd of=/run/file.rom bs=1 seek=2048 conv=notrunc\n\
         say \"file bytes=$(wc -c </run/file.rom) md5=$(md5sum </run/file.rom | cut -d' ' -f1)\"\n"
    )
}

/// L1 unbinds the devices from vfio-pci first: sysfs enables no device that has a driver.
fn say_roms_again() -> String {
    format!(
        "for bdf in {VGA} {BOCHS}; do\n\
         echo $bdf >$sys/$bdf/driver/unbind\nsay_rom rom-after $bdf\ndone\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    for (bdf, is_copy) in [(VGA, true), (BOCHS, false)] {
        let copy = format!("{bdf} 0x00000000000c0000");
        let mut addresses = outcome.transcript.lab("rom-at");
        expect(addresses.any(|fact| fact == copy) == is_copy, || {
            let what = if is_copy { "not " } else { "" };
            format!("the ROM of {bdf} is {what}at 0xc0000 in L1")
        })?;
    }
    let vga = l1_rom(outcome, "rom-before", VGA)?;
    let bochs = l1_rom(outcome, "rom-before", BOCHS)?;
    expect(vga != bochs, || "both displays have the same ROM".into())?;
    let file = l1_rom(outcome, "file", "")?;
    expect(file != vga, || "the file is the device's ROM".into())?;
    for (index, roms) in [[vga, bochs], [vga, bochs], [file, "none"]]
        .into_iter()
        .enumerate()
    {
        let run = run(outcome, index)?;
        for (bdf, rom) in [VGA, BOCHS].into_iter().zip(roms) {
            check_display(&run, bdf, rom)?;
        }
    }
    for (bdf, before) in [(VGA, vga), (BOCHS, bochs)] {
        let after = l1_rom(outcome, "rom-after", bdf)?;
        expect(after == before, || {
            format!("the ROM of {bdf} was {before} and is {after} now")
        })?;
    }
    Ok(())
}

/// The size and checksum of a ROM that L1 read.
fn l1_rom<'a>(outcome: &'a Outcome, key: &'a str, bdf: &str) -> Result<&'a str> {
    let rom = outcome
        .transcript
        .lab(key)
        .find_map(|fact| fact.strip_prefix(bdf))
        .map_or("", str::trim);
    let real = rom.starts_with("bytes=") && !rom.starts_with("bytes=0 ");
    expect(real, || format!("L1 says no {key} {bdf}")).map(|()| rom)
}

/// Expects that the guest read this ROM, and that its frame buffer keeps the guest's writes at
/// three offsets.
fn check_display(run: &Run<'_>, bdf: &str, rom: &str) -> Result<()> {
    let said = format!("{bdf} {rom}");
    expect(run.guest("rom").any(|fact| fact == said), || {
        let roms: Vec<_> = run.guest("rom").collect();
        format!("the guest found the ROMs {roms:?}, and not \"{said}\"")
    })?;
    // A ROM begins with the bytes 55 aa.
    let kept = |fact: &str| {
        let words = ["before", "after"].map(|name| value(fact, name).unwrap_or(""));
        fact.starts_with(bdf) && words[0] == words[1] && words[0].ends_with("AA55")
    };
    expect(rom == "none" || run.guest("rom-word").any(kept), || {
        let words: Vec<_> = run.guest("rom-word").collect();
        format!("the ROM of {bdf} has changed after a write: {words:?}")
    })?;
    for at in [0, FRAME_BUFFER / 2, FRAME_BUFFER - 4] {
        let said = format!("{bdf} {at} of={FRAME_BUFFER}");
        expect(run.guest("pixel").any(|fact| fact == said), || {
            format!("the frame buffer of {bdf} does not keep what is written at {at}")
        })?;
    }
    // The kernel's IORESOURCE_MEM and _PREFETCH.
    let said = format!("{bdf} 0 ");
    let flags = run
        .guest("bar")
        .find(|fact| fact.starts_with(&said))
        .and_then(|fact| fact.split_once("flags=0x"))
        .and_then(|(_, flags)| u64::from_str_radix(flags, 16).ok());
    expect(flags.is_some_and(|flags| flags & 0x2200 == 0x2200), || {
        format!("the frame buffer of {bdf} is not prefetchable: {flags:x?}")
    })
}
