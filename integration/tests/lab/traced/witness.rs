//! A traced mini-vmm with an NVMe disk makes the same calls as an untraced one. The witness is the
//! kernel's own record of calls.

use std::collections::BTreeMap;

use lab::Result;
use lab::disk::Disk;
use lab::expect::{exit, expect, run};
use lab::kept::{self, Files};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::vmm;

use super::calls::{WITNESSED, counts, difference};
use super::transcripts;

const DISK: Disk = Disk::new("lab-disk", 5);
const FILES: Disk = Disk::new("files", 6);

const INTERFACES: [&str; 2] = ["container", "iommufd"];

/// By each interface, three runs: untraced, traced, and untraced again.
const RUNS: [(&str, &str); 3] = [("plain", ""), ("traced", TRACER), ("again", "")];
const TRACER: &str = "mini-vmm-trace -o /dev/null -- ";

const INSTANCE: &str = "\
bind_vfio 0000:00:05.0
[ -d /sys/kernel/tracing/instances ] || mount -t tracefs tracefs /sys/kernel/tracing
w=/sys/kernel/tracing/instances/witness
mkdir $w
";

pub fn scenario() -> Scenario {
    let mut script = format!("{}{INSTANCE}{WITNESSED}", kept::KEEP);
    let mut files = String::new();
    for interface in INTERFACES {
        for (name, tracer) in RUNS {
            let file = format!("/run/{interface}-{name}");
            script += &format!(
                "run_as '' witnessed {file} {tracer}mini-vmm --kernel /bin/tiny-kernel \
                 --memory 64M --vfio 0000:00:05.0 --iommu {interface}\n"
            );
            files += &format!(" {file}");
        }
    }
    script += &format!("rmdir $w\nkeep{files}\n");
    Scenario::new("tracing_changes_no_call_with_a_disk")
        .built("mini-vmm-trace", vmm::tracer)
        .built("tiny-kernel", transcripts::kernel)
        .disks(&[DISK, FILES])
        .apart()
        .script(script, check)
}

fn check(outcome: &Outcome) -> Result<()> {
    let files = Files::of(outcome, &FILES)?;
    for (index, interface) in INTERFACES.iter().enumerate() {
        let mut calls = Vec::new();
        for (number, (name, _)) in RUNS.iter().enumerate() {
            let run = run(outcome, index * RUNS.len() + number)?;
            exit(&run, 0)?;
            let lost: Vec<_> = run
                .lines
                .iter()
                .filter(|l| l.text.contains("overrun"))
                .collect();
            expect(lost.is_empty(), || {
                format!("the witness has lost calls: {lost:?}")
            })?;
            let started = run
                .messages()
                .find_map(|line| line.strip_prefix("started "));
            let counts = counts(
                &files.text(&format!("{interface}-{name}"))?,
                started.filter(|_| *name == "traced"),
            );
            is_whole(&counts, interface)?;
            calls.push(counts);
        }
        let untraced = difference(&calls[0], &calls[2]);
        let traced = difference(&calls[0], &calls[1]);
        eprintln!("  {interface}: {} calls", calls[0].values().sum::<u64>());
        expect(untraced.is_empty() && traced.is_empty(), || {
            format!("between untraced runs: {untraced:?}; by tracing: {traced:?}")
        })?;
    }
    Ok(())
}

/// The record has calls of the program to a device: VFIO_DEVICE_GET_INFO, VFIO_DEVICE_SET_IRQS,
/// and KVM_IRQFD.
fn is_whole(counts: &BTreeMap<String, u64>, interface: &str) -> Result<()> {
    let calls = ["ioctl 3b6b", "ioctl 3b6e", "ioctl 4020ae76"];
    let lacks: Vec<_> = calls
        .iter()
        .filter(|call| !counts.contains_key(**call))
        .collect();
    expect(lacks.is_empty() && counts.len() > 40, || {
        format!("the witness lacks {lacks:?} by {interface}: {counts:?}")
    })
}
