//! Checks that many scenarios share: a guest worked its disk, and L1 got the disk back. Each
//! failure is one message, which names the expected and the actual value.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::transcript::{Run, number, value};

/// Fails with a message if `condition` is false.
pub fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if condition {
        Ok(())
    } else {
        Err(Error::failed(otherwise()))
    }
}

/// Returns the run with this number; the first has 0.
pub fn run(outcome: &Outcome, index: usize) -> Result<Run<'_>> {
    let runs = outcome.transcript.runs();
    runs.get(index)
        .copied()
        .ok_or_else(|| Error::failed(format!("run {} of mini-vmm was never started", index + 1)))
}

/// Expects that mini-vmm ended with this exit status.
pub fn exit(run: &Run<'_>, status: i32) -> Result<()> {
    expect(run.exit() == Some(status), || {
        let ended = run.exit().map_or("without a status".into(), |status| {
            format!("with status {status}")
        });
        let said = last_words(run);
        format!(
            "\"{}\" ended {ended} instead of {status}{said}",
            run.command()
        )
    })
}

/// The last error of mini-vmm and the guest's last line, for the message about a run that failed.
fn last_words(run: &Run<'_>) -> String {
    let error = run
        .messages()
        .filter(|line| line.contains("error: "))
        .last();
    let output = run.output();
    let guest = output.lines().rfind(|line| !line.trim().is_empty());
    let told = [
        ("mini-vmm's error", error),
        ("the guest's last line", guest),
    ];
    told.into_iter()
        .filter_map(|(who, line)| Some(format!("; {who}: {}", line?.trim())))
        .collect()
}

/// Expects that mini-vmm, which ran with `-v`, used this interface to the IOMMU: `container` or
/// `iommufd`.
pub fn used(run: &Run<'_>, interface: &str) -> Result<()> {
    let by_iommufd = run.messages().any(|line| line.contains("by iommufd"));
    expect(by_iommufd == (interface == "iommufd"), || {
        format!("\"{}\" did not use {interface}", run.command())
    })
}

/// Returns the first fact with this key. The guest must have printed such a fact.
pub fn guest<'a>(run: &Run<'a>, key: &'a str) -> Result<&'a str> {
    run.guest(key)
        .next()
        .ok_or_else(|| Error::failed(format!("the guest never said \"{key}\"")))
}

/// Expects that the guest read the disk's text and got an MSI or MSI-X interrupt for each read, and
/// that the image has the guest's writes.
pub fn worked(outcome: &Outcome, run: &Run<'_>, disk: &Disk) -> Result<()> {
    worked_by(outcome, run, disk, "MSI")
}

/// Like [`worked`], but the interrupts come from this interrupt chip, as /proc/interrupts names it.
pub fn worked_by(outcome: &Outcome, run: &Run<'_>, disk: &Disk, chip: &str) -> Result<()> {
    read_by(run, disk, chip)?;
    disk.check_written(&outcome.image(disk.serial))?;
    let wrote = format!("{} {}", disk.serial, disk.guest_text());
    expect(run.guest("reread").any(|text| text == wrote), || {
        format!(
            "the guest did not read back what it wrote to {}",
            disk.serial
        )
    })
}

/// Expects that the guest read the disk's text and got MSI or MSI-X interrupts, and that its kernel
/// reports no error.
pub fn read(run: &Run<'_>, disk: &Disk) -> Result<()> {
    read_by(run, disk, "MSI")
}

fn read_by(run: &Run<'_>, disk: &Disk, chip: &str) -> Result<()> {
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
    expect(run.guest("irq").any(|line| line.contains(chip)), || {
        format!("no {chip} line of the disk is in the guest's /proc/interrupts")
    })?;
    no_trouble(run)
}

/// Expects that all workers of the disk's plan did their reads and writes of this round with
/// interrupts, and that the guest then read the content that the plan predicts.
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
    // Requests that end at the same time share one interrupt, above all with an interrupt pin.
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

/// Expects that neither the guest's kernel nor its /init reports an error.
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

/// Expects that mini-vmm ended with status 0 after the guest had done its act and powered off.
pub fn ended_well(run: &Run<'_>) -> Result<()> {
    exit(run, 0)?;
    no_trouble(run)?;
    let last = run.guest("done").last();
    expect(last == Some("poweroff"), || {
        format!("the guest ended with {last:?}, not \"poweroff\"")
    })
}

/// Whether this command runs a guest in the sandbox: mini-vmm does unless a flag says otherwise. L1
/// does not look at a traced run.
fn is_confined(command: &str) -> bool {
    let mut words = command.split_whitespace();
    if words.next() != Some("mini-vmm") {
        return false;
    }
    let words: Vec<_> = words.collect();
    let runs = words
        .iter()
        .any(|word| ["--kernel", "--config"].contains(word));
    let mode = words.windows(2).find(|pair| pair[0] == "--sandbox");
    runs && words.first() != Some(&"trace") && mode.is_none_or(|pair| pair[1] == "on")
}

/// Expects that the sandbox refused nothing, and that each thread of a confined run was confined
/// whenever L1 looked: at each boot of the guest, and when a device came or went.
pub fn confined(run: &Run<'_>) -> Result<()> {
    let refused = ["sandbox refuses the call", "is not in the list of"];
    let mut lines = run.messages();
    if let Some(line) = lines.find(|line| refused.iter().any(|text| line.contains(text))) {
        return Err(Error::failed(format!("a list lacks a call: {line}")));
    }
    if !is_confined(run.command()) || !run.reached_init() {
        return Ok(());
    }
    let looks: Vec<_> = run.lab("sandbox").collect();
    let boots = looks.iter().filter(|look| look.starts_with("init "));
    // The run may have ended when L1 looked.
    let seen = looks
        .iter()
        .filter(|look| number(look, "threads") > Some(2));
    expect(
        looks.iter().all(|look| number(look, "lacks") == Some(0))
            && boots.count() == run.guest("init").count()
            && seen.count() > 0,
        || format!("not every thread was confined at each boot: {looks:?}"),
    )
}

/// Expects that L1's own driver has the disk again after each run, and reads the disk's text.
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

/// Like [`back`]; in addition, L1's own driver reads the text that the guest wrote.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transcript::{Line, Transcript};

    #[test]
    fn a_run_that_failed_is_told_with_its_last_words() {
        let lines = [
            "LAB: run mini-vmm --kernel k",
            "VMM| [0.1] error: the vCPU failed",
            "VMM| hint: look",
            "L2| L2: init",
            "L2| ",
            "LAB: exit 1",
        ];
        let lines = lines.map(|raw| Line::new(Duration::ZERO, raw)).into();
        let transcript = Transcript { lines };
        let message = exit(&transcript.runs()[0], 0).unwrap_err().to_string();
        for part in [
            "status 1 instead of 0",
            "the vCPU failed",
            "last line: L2: init",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
