//! Interrupts on the CPU that the guest selects: one queue for each CPU, and interrupts of each
//! kind that the guest moves from CPU to CPU. Meanwhile all CPUs read and write the disk at random.

use lab::Result;
use lab::command::Vmm;
use lab::disk::{Controller, Disk};
use lab::expect::{expect, guest, loaded};
use lab::scenario::Scenario;
use lab::transcript::{Run, number, value};

/// Virtual CPUs.
const CPUS: u64 = 4;

/// Workers on the disk, two for each CPU, and the operations of each by each interface.
const WORKERS: u32 = 8;
const OPERATIONS: u32 = 300;

const NVME: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        loaded_disk("nvme_has_a_queue_on_each_cpu", NVME, "lab.act=queues")
            .interrupt_chip("MSIX")
            .each_run(|_, run| queues(run)),
        loaded_disk(
            "nvme_by_its_interrupt_pin_moved_while_reading",
            NVME,
            "pci=nomsi lab.act=churn",
        )
        .interrupt_chip("IO-APIC")
        .each_run(|_, run| churned(run)),
        loaded_disk(
            "nvme_by_one_vector_moved_while_reading",
            Disk::behind("lab-disk", 5, Controller::NvmeOneVector),
            "lab.act=churn",
        )
        .interrupt_chip("MSIX")
        .each_run(|_, run| churned(run)),
        loaded_disk(
            "sata_by_msi_moved_while_reading",
            Disk::behind("sata-disk", 7, Controller::Sata),
            "lab.act=churn",
        )
        .degraded(&[&["no-reset"], &["no-reset"]])
        .each_run(|_, run| churned(run)),
    ]
}

/// A disk with a plan of random reads and writes, and one round of the plan with each interface.
fn loaded_disk(name: &'static str, disk: Disk, words: &str) -> Scenario {
    let disk = disk.loaded(WORKERS, OPERATIONS, 2);
    let plan = |round| disk.load.map(|plan| plan.in_round(round).to_string());
    let words = |round| format!("{words} lab.load={}", plan(round).unwrap_or_default());
    Scenario::new(name)
        .limit(240)
        .disk(disk.clone())
        .by_each_interface(|round| Vmm::new(format!("--cpus {CPUS}")).cmdline(words(round)))
        .each_run(move |round, run| loaded(run, &disk, round))
}

/// Linux gives each I/O queue of NVMe a vector on a CPU of its own and keeps the vector there. Only
/// the admin queue's vector may move: it goes to each CPU three times while all CPUs read.
fn queues(run: &Run<'_>) -> Result<()> {
    for cpu in 0..CPUS {
        for (key, least) in [("queue", 200), ("since-boot", 400)] {
            let fact = run
                .guest(key)
                .find(|fact| number(fact, "cpu") == Some(cpu))
                .unwrap_or_default();
            let [here, all] = ["here", "all"].map(|name| number(fact, name).unwrap_or(0));
            expect(here >= least && here == all, || {
                format!("not all reads of CPU {cpu} came back by its own queue: {key} {fact}")
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

/// The function has one interrupt, which the guest moves while it reads. If an interrupt is lost
/// during a move, its read times out. If the interrupt stays on one CPU, the other CPUs count none.
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
        format!("{heard} CPUs counted the interrupt, not {CPUS}")
    })
}
