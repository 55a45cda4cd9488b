//! Interrupts on the CPU where they are wanted: one queue a CPU, and interrupts of each kind that are
//! moved round while they are in use. The disks are read and written at random meanwhile, by all CPUs.

use std::time::Duration;

use lab::Result;
use lab::disk::{Disk, Wiring};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Check, Image, Scenario};
use lab::transcript::{Run, number, value};

use lab::expect::{back_with_guest_text, expect, guest, loaded, worked_by};

use crate::both;

const LIMIT: Duration = Duration::from_secs(240);

/// Virtual CPUs.
const CPUS: u64 = 4;

/// Workers on the disk, two a CPU, and what each does by each interface.
const WORKERS: u32 = 8;
const OPERATIONS: u32 = 300;

pub fn all() -> Vec<Scenario> {
    let load = |disk: Disk| disk.loaded(WORKERS, OPERATIONS, 2);
    vec![
        a_queue_each(load(Disk::new("lab-disk", 5))),
        moved(
            "nvme_by_its_interrupt_pin_moved_while_reading",
            load(Disk::new("lab-disk", 5)),
            "pci=nomsi",
            "IO-APIC",
        ),
        moved(
            "nvme_by_one_vector_moved_while_reading",
            load(Disk::wired("lab-disk", 5, Wiring::NvmeOneVector)),
            "",
            "MSIX",
        ),
        moved(
            "sata_by_msi_moved_while_reading",
            load(Disk::wired("sata-disk", 7, Wiring::Sata)),
            "",
            "MSI",
        ),
    ]
}

fn scenario(name: &'static str, disk: &Disk, act: &str, words: &str, check: Check) -> Scenario {
    let bdf = disk.bdf();
    let plan = disk.load;
    let script = both::script(&bdf, &format!("--cpus {CPUS}"), |round| {
        let plan = plan.map_or_else(String::new, |plan| plan.in_round(round).to_string());
        format!("{words} lab.act={act} lab.load={plan}")
    });
    Scenario {
        name,
        machine: Machine::with_disks(std::slice::from_ref(disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: format!("{script}give_back {bdf}\n"),
        limit: LIMIT,
        check,
    }
}

/// Linux keeps the vectors of NVMe's I/O queues where it put them, one a CPU, and lets only that of
/// the admin queue be moved: it goes three times round while all CPUs read.
fn a_queue_each(disk: Disk) -> Scenario {
    let check = {
        let disk = disk.clone();
        move |outcome: &_| {
            both::check(outcome, |round, run| {
                worked_by(outcome, run, &disk, "MSIX")?;
                loaded(run, &disk, round)?;
                queues(run)
            })?;
            back_with_guest_text(outcome, &disk)
        }
    };
    scenario(
        "nvme_has_a_queue_on_each_cpu",
        &disk,
        "queues",
        "",
        Box::new(check),
    )
}

fn queues(run: &Run<'_>) -> Result<()> {
    for cpu in 0..CPUS {
        for (key, least) in [("queue", 200), ("since-boot", 400)] {
            let fact = run
                .guest(key)
                .find(|fact| number(fact, "cpu") == Some(cpu))
                .unwrap_or_default();
            let [here, all] = ["here", "all"].map(|name| number(fact, name).unwrap_or(0));
            expect(here >= least && here == all, || {
                format!(
                    "not all of CPU {cpu}'s was answered on its own queue and CPU: {key} {fact}"
                )
            })?;
        }
        let moved = run
            .guest("moved")
            .filter(|fact| number(fact, "cpu") == Some(cpu));
        let moved = moved.count();
        expect(moved == 3, || {
            format!("the admin queue's vector came to CPU {cpu} {moved} times, not 3")
        })?;
    }
    let moved = run.guest("moved-queue").next();
    expect(moved.is_none(), || {
        format!("the guest's kernel let a managed interrupt be moved: {moved:?}")
    })
}

/// A function with one interrupt, and nobody minds where it goes: a read whose interrupt is lost on
/// the way would time out, one that sticks would be the last.
fn moved(
    name: &'static str,
    disk: Disk,
    words: &'static str,
    controller: &'static str,
) -> Scenario {
    let check = {
        let disk = disk.clone();
        move |outcome: &_| {
            both::check(outcome, |round, run| {
                worked_by(outcome, run, &disk, controller)?;
                loaded(run, &disk, round)?;
                churned(run)
            })?;
            back_with_guest_text(outcome, &disk)
        }
    };
    scenario(name, &disk, "churn", words, Box::new(check))
}

fn churned(run: &Run<'_>) -> Result<()> {
    let churned = guest(run, "churned")?;
    let [moves, reads, interrupts] =
        ["moves", "reads", "interrupts"].map(|name| number(churned, name).unwrap_or(0));
    expect(moves >= 50 && reads > 0 && interrupts >= reads, || {
        format!("too few moves, or interrupts for the reads: {churned}")
    })?;
    for fact in run.guest("heard") {
        expect(number(fact, "interrupts").is_some_and(|n| n > 100), || {
            format!(
                "the interrupt hardly ever came to CPU {}: {fact}",
                value(fact, "cpu").unwrap_or_default()
            )
        })?;
    }
    let heard = run.guest("heard").count() as u64;
    expect(heard == CPUS, || {
        format!("{heard} CPUs were asked, not {CPUS}")
    })
}
