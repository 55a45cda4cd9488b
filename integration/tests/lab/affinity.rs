//! Interrupts on the CPU where they are wanted: one queue a CPU, and vectors that are moved round
//! while they are in use.

use std::time::Duration;

use lab::disk::{Disk, Wiring};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{number, value};

use lab::expect::{back_with_guest_text, ended_well, expect, guest, run, worked};

const LIMIT: Duration = Duration::from_secs(150);

/// Virtual CPUs.
const CPUS: u64 = 4;

pub fn all() -> Vec<Scenario> {
    vec![a_queue_each(), moved_while_reading()]
}

fn script(bdf: &str, act: &str) -> String {
    format!(
        "bind_vfio {bdf}\n\
         run_vmm --kernel bzImage --initrd initrd --cpus {CPUS} --memory 512M \
         --cmdline 'quiet panic=-1 lab.act={act}' --vfio {bdf}\n\
         give_back {bdf}\n"
    )
}

/// Linux keeps the vectors of NVMe's I/O queues where it put them, one a CPU, and lets only that of
/// the admin queue be moved: it goes three times round while all CPUs read.
fn a_queue_each() -> Scenario {
    let disk = Disk::new("lab-disk", 5);
    Scenario {
        name: "nvme_has_a_queue_on_each_cpu",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: script(&disk.bdf(), "queues"),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            worked(outcome, &run, &disk)?;
            for cpu in 0..CPUS {
                let fact = run
                    .guest("queue")
                    .find(|fact| number(fact, "cpu") == Some(cpu))
                    .unwrap_or_default();
                let [here, all] = ["here", "all"].map(|name| number(fact, name).unwrap_or(0));
                expect(here >= 200 && here == all, || {
                    format!(
                        "what CPU {cpu} read was not all answered on its own queue and CPU: {fact}"
                    )
                })?;
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
            })?;
            back_with_guest_text(outcome, &disk)
        }),
    }
}

/// A SATA controller has one message, and nobody minds where it goes: a read whose interrupt is
/// lost on the way would time out.
fn moved_while_reading() -> Scenario {
    let disk = Disk::wired("sata-disk", 7, Wiring::Sata);
    Scenario {
        name: "an_interrupt_is_moved_while_the_disk_is_read",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: script(&disk.bdf(), "churn"),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            worked(outcome, &run, &disk)?;
            let churned = guest(&run, "churned")?;
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
            })?;
            back_with_guest_text(outcome, &disk)
        }),
    }
}
