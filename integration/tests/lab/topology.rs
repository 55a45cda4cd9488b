//! vCPUs as cores and threads: Linux reads the topology from CPUID and the ACPI tables. An
//! interrupt must also reach an APIC ID above a gap.

use lab::Result;
use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::expect;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};

/// A CPU as Linux shows it: its APIC ID, its socket, the CPUs of its core and the CPUs of its
/// socket.
type Cpu = (u32, u32, &'static str, &'static str);

/// By default each vCPU is a core.
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
/// No vCPU has the APIC ID 3: a socket of three cores uses four IDs.
const SOCKETS: &[Cpu] = &[
    (0, 0, "0", "0-2"),
    (1, 0, "1", "0-2"),
    (2, 0, "2", "0-2"),
    (4, 1, "3", "3-5"),
    (5, 1, "4", "3-5"),
    (6, 1, "5", "3-5"),
];

pub fn all() -> Vec<Scenario> {
    let vmm =
        |cpus: &str| Vmm::new(format!("--memory 256M --cpus {cpus}")).cmdline("lab.act=topology");
    vec![
        Scenario::new("vcpus_are_cores_and_threads")
            .limit(180)
            .disk(Disk::new("lab-disk", 5))
            .vmm(vmm("4").devices(""))
            .vmm(vmm("4,sockets=1,cores=2,threads=2").devices(""))
            .vmm(vmm("6,sockets=2,cores=3"))
            .each_run(|round, run| match round {
                0 => as_configured(run, CORES),
                1 => as_configured(run, THREADS),
                _ => as_configured(run, SOCKETS).and_then(|()| interrupted(run, SOCKETS.len())),
            }),
    ]
}

fn as_configured(run: &Run<'_>, cpus: &[Cpu]) -> Result<()> {
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

/// Each CPU got the interrupts of its own reads, and no other CPU got them.
fn interrupted(run: &Run<'_>, cpus: usize) -> Result<()> {
    for cpu in 0..cpus as u64 {
        let fact = run
            .guest("queue")
            .find(|fact| number(fact, "cpu") == Some(cpu))
            .unwrap_or_default();
        let [here, all] = ["here", "all"].map(|name| number(fact, name).unwrap_or(0));
        expect(here >= 50 && here == all, || {
            format!("CPU {cpu} did not get the interrupts of all its reads: {fact}")
        })?;
    }
    Ok(())
}
