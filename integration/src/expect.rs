//! Expectations that scenarios share: a guest that worked its disk, a disk that L1 got back.
//! Each returns one sentence that says what was expected and what came.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::transcript::{Run, number, value};

/// Fails with a sentence unless `holds`.
pub fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::failed(otherwise()))
    }
}

/// The run at an index.
pub fn run(outcome: &Outcome, index: usize) -> Result<Run<'_>> {
    let runs = outcome.transcript.runs();
    runs.get(index)
        .copied()
        .ok_or_else(|| Error::failed(format!("run {} of mini-vmm was never started", index + 1)))
}

/// How mini-vmm ended.
pub fn exit(run: &Run<'_>, status: i32) -> Result<()> {
    expect(run.exit() == Some(status), || {
        format!(
            "\"{}\" ended with status {:?} instead of {status}",
            run.command(),
            run.exit()
        )
    })
}

/// mini-vmm, which ran with `-v`, used this interface to the IOMMU: `container` or `iommufd`.
pub fn used(run: &Run<'_>, interface: &str) -> Result<()> {
    let by_iommufd = run.messages().any(|line| line.contains("by iommufd"));
    expect(by_iommufd == (interface == "iommufd"), || {
        format!("\"{}\" did not use {interface}", run.command())
    })
}

/// A fact that the guest must have said.
pub fn guest<'a>(run: &Run<'a>, key: &'a str) -> Result<&'a str> {
    run.guest(key)
        .next()
        .ok_or_else(|| Error::failed(format!("the guest never said \"{key}\"")))
}

/// The guest read the disk's text, had an MSI-X interrupt for each read, and what it wrote is in the
/// image.
pub fn worked(outcome: &Outcome, run: &Run<'_>, disk: &Disk) -> Result<()> {
    worked_by(outcome, run, disk, "MSI")
}

/// The same, by the interrupt controller that /proc/interrupts names.
pub fn worked_by(outcome: &Outcome, run: &Run<'_>, disk: &Disk, controller: &str) -> Result<()> {
    read_by(run, disk, controller)?;
    disk.check_written(&outcome.image(disk.serial))?;
    let wrote = format!("{} {}", disk.serial, disk.guest_text());
    expect(run.guest("reread").any(|text| text == wrote), || {
        format!(
            "the guest did not read back what it wrote to {}",
            disk.serial
        )
    })
}

/// The guest's own report: text, message interrupts, and no complaint of its kernel's.
pub fn read(run: &Run<'_>, disk: &Disk) -> Result<()> {
    read_by(run, disk, "MSI")
}

fn read_by(run: &Run<'_>, disk: &Disk, controller: &str) -> Result<()> {
    let serial = disk.serial;
    guest(run, "init")?;
    let text = format!("{serial} {}", disk.text());
    expect(run.guest("text").any(|line| line == text), || {
        format!("the guest did not read the text of disk {serial}")
    })?;
    let mut counted = 0;
    for fact in run
        .guest("interrupts")
        .filter(|fact| fact.starts_with(serial))
    {
        let [before, after, reads] =
            ["before", "after", "reads"].map(|name| number(fact, name).unwrap_or(0));
        expect(before > 0 && reads > 0 && after >= before + reads, || {
            format!("disk {serial} gave too few interrupts for its reads: {fact}")
        })?;
        counted += 1;
    }
    expect(counted > 0, || {
        format!("the guest counted no interrupts of disk {serial}")
    })?;
    expect(
        run.guest("irq").any(|line| line.contains(controller)),
        || format!("no {controller} line of the disk is in the guest's /proc/interrupts"),
    )?;
    no_trouble(run)
}

/// The workers of the disk's plan all did their round, with an interrupt for each read and write,
/// and the guest found on the disk what they left.
pub fn loaded(run: &Run<'_>, disk: &Disk, round: u32) -> Result<()> {
    let Some(plan) = disk.load else {
        return Err(Error::failed("the disk has no plan"));
    };
    let plan = plan.in_round(round);
    let mut done = 0;
    for worker in 0..plan.workers {
        let fact = run
            .guest("loaded")
            .find(|fact| number(fact, "worker") == Some(worker.into()))
            .unwrap_or_default();
        let each = ["reads", "writes"].map(|name| number(fact, name).unwrap_or(0));
        expect(
            each.iter().all(|n| *n > 0) && each.iter().sum::<u64>() == plan.operations.into(),
            || format!("worker {worker} did not do its reads and writes: {fact}"),
        )?;
        done += u64::from(plan.operations);
    }
    let load = guest(run, "load")?;
    // Requests that end together share an interrupt, most of all that of a pin.
    expect(
        number(load, "interrupts").is_some_and(|n| n >= done / 10),
        || format!("too few interrupts for {done} reads and writes: {load}"),
    )?;
    let newest = plan.generations().into_iter().max().unwrap_or(0);
    let wanted = format!("blocks={} newest={newest}", plan.blocks());
    let found = guest(run, "verified")?;
    expect(found == wanted, || {
        format!("the guest found {found} on the disk instead of {wanted}")
    })
}

/// The guest's kernel had nothing to complain of, and what its /init tried went well.
pub fn no_trouble(run: &Run<'_>) -> Result<()> {
    for trouble in [
        "trouble",
        "read-failed",
        "copy-failed",
        "write-failed",
        "no-disk",
        "loop-failed",
        "buffered-failed",
        "act-failed",
    ] {
        if let Some(what) = run.guest(trouble).next() {
            return Err(Error::failed(format!("the guest said {trouble}: {what}")));
        }
    }
    Ok(())
}

/// The guest ended as it was told to, after all that it had to do.
pub fn ended_well(run: &Run<'_>) -> Result<()> {
    exit(run, 0)?;
    no_trouble(run)?;
    let last = run.guest("done").last();
    expect(last == Some("poweroff"), || {
        format!("the guest's last word is {last:?}, not \"poweroff\"")
    })
}

/// The host driver has the disk again, and reads from it what is in the image.
pub fn back(outcome: &Outcome, disk: &Disk) -> Result<()> {
    let bdf = disk.bdf();
    let mut seen = 0;
    for fact in outcome
        .transcript
        .lab("back")
        .filter(|fact| fact.starts_with(&bdf))
    {
        let driver = value(fact, "driver");
        let text = fact.split_once("text=").map(|(_, text)| text);
        expect(
            driver == Some(disk.driver()) && text == Some(&disk.text()),
            || format!("L1 did not get disk {} back: {fact}", disk.serial),
        )?;
        seen += 1;
    }
    expect(seen > 0, || {
        format!("disk {} was never given back to L1", disk.serial)
    })
}

/// What L1's own driver reads where the guest wrote.
pub fn back_with_guest_text(outcome: &Outcome, disk: &Disk) -> Result<()> {
    back(outcome, disk)?;
    let wrote = format!("{} {}", disk.bdf(), disk.guest_text());
    expect(
        outcome
            .transcript
            .lab("guest-wrote")
            .any(|fact| fact == wrote),
        || format!("L1 does not read what the guest wrote to {}", disk.serial),
    )
}
