//! vCPUs as cores and threads: what Linux makes of the leaves and tables, and that an interrupt for an
//! APIC id with a gap before it arrives.

use std::time::Duration;

use lab::Result;
use lab::disk::Disk;
use lab::expect::{back_with_guest_text, ended_well, expect, run, worked};
use lab::kernel::Choice;
use lab::machine::Machine;
use lab::scenario::{Image, Scenario};
use lab::transcript::{Run, number};

const LIMIT: Duration = Duration::from_secs(180);

/// What Linux says of a CPU: its APIC id and socket, and those of its core and of its socket.
type Cpu = (u32, u32, &'static str, &'static str);

/// By default each is a core.
const CORES: &[Cpu] = &[
    (0, 0, "0", "0-3"),
    (1, 0, "1", "0-3"),
    (2, 0, "2", "0-3"),
    (3, 0, "3", "0-3"),
];
const THREADS: &[Cpu] = &[
    (0, 0, "0-1", "0-3"),
    (1, 0, "0-1", "0-3"),
    (2, 0, "2-3", "0-3"),
    (3, 0, "2-3", "0-3"),
];
/// The APIC id 3 is nobody's.
const SOCKETS: &[Cpu] = &[
    (0, 0, "0", "0-2"),
    (1, 0, "1", "0-2"),
    (2, 0, "2", "0-2"),
    (4, 1, "3", "3-5"),
    (5, 1, "4", "3-5"),
    (6, 1, "5", "3-5"),
];

pub fn all() -> Vec<Scenario> {
    let disk = Disk::new("lab-disk", 5);
    let bdf = disk.bdf();
    let vmm = |cpus: &str, more: &str| {
        format!(
            "run_vmm --kernel bzImage --initrd initrd --memory 256M --cpus {cpus} \
             --cmdline 'quiet panic=-1 lab.act=topology' {more}\n"
        )
    };
    let script = [
        vmm("4", ""),
        vmm("4,sockets=1,cores=2,threads=2", ""),
        format!("bind_vfio {bdf}\n"),
        vmm("6,sockets=2,cores=3", &format!("--vfio {bdf}")),
        format!("give_back {bdf}\n"),
    ];
    vec![Scenario {
        name: "vcpus_are_cores_and_threads",
        machine: Machine::with_disks(std::slice::from_ref(&disk)),
        kernel: Choice::Lab,
        image: Image::BzImage,
        script: script.concat(),
        limit: LIMIT,
        check: Box::new(move |outcome| {
            for (index, cpus) in [CORES, THREADS, SOCKETS].into_iter().enumerate() {
                let run = run(outcome, index)?;
                ended_well(&run)?;
                as_wished(&run, cpus)?;
            }
            let run = run(outcome, 2)?;
            worked(outcome, &run, &disk)?;
            heard(&run, SOCKETS.len())?;
            back_with_guest_text(outcome, &disk)
        }),
    }]
}

fn as_wished(run: &Run<'_>, cpus: &[Cpu]) -> Result<()> {
    let wanted: Vec<_> = cpus
        .iter()
        .enumerate()
        .map(|(cpu, (apic, socket, core, package))| {
            format!(
                "{cpu} apic={apic} socket={socket} siblings={core} core={core} package={package}"
            )
        })
        .collect();
    let said: Vec<_> = run.guest("cpu").collect();
    expect(said == wanted, || {
        format!(
            "\"{}\" has CPUs {said:#?} instead of {wanted:#?}",
            run.command()
        )
    })
}

/// Each CPU had the interrupts of its own reads, and no other had them.
fn heard(run: &Run<'_>, cpus: usize) -> Result<()> {
    for cpu in 0..cpus as u64 {
        let fact = run
            .guest("queue")
            .find(|fact| number(fact, "cpu") == Some(cpu))
            .unwrap_or_default();
        let [here, all] = ["here", "all"].map(|name| number(fact, name).unwrap_or(0));
        expect(here >= 50 && here == all, || {
            format!("CPU {cpu} did not hear of all that it read: {fact}")
        })?;
    }
    Ok(())
}
