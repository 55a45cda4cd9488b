//! Kernel parameters that take helpers away from a guest: KVM's clock, ACPI, processors, ways to
//! configuration space. Each guest must do its work with the rest.

use lab::command::Vmm;
use lab::disk::Disk;
use lab::expect::{expect, guest, worked};
use lab::kernel::Choice;
use lab::scenario::Scenario;
use lab::transcript::Run;
use lab::{Error, Result};

const DISK: Disk = Disk::new("lab-disk", 5);

/// vCPUs, the kernel parameters, and the number of CPUs that Linux uses.
const PARAMETERS: &[(u32, &str, &str)] = &[
    (4, "nr_cpus=1", "1"),
    (4, "maxcpus=2", "2"),
    (2, "nox2apic pci=nommconf nokaslr", "2"),
    (1, "tsc=unstable mem=128M", "1"),
];

pub fn all() -> Vec<Scenario> {
    vec![without_kvms_clock(), without_acpi(), with_less()]
}

/// The kernel measures the time-stamp counter by the ACPI PM timer. It rejects a measurement in
/// which three reads of the timer take 50,000 ticks (Linux, `tsc_read_refs`). That is much for an
/// exit of KVM, but not for an emulated one, so here the machine's time follows its instructions.
fn without_kvms_clock() -> Scenario {
    let vmm = Vmm::new("--memory 256M --stats=/run/stats.json");
    let vmm = vmm.cmdline("no-kvmclock lab.act=clock");
    Scenario::new("a_guest_without_kvms_clock")
        .slow()
        .kernel(Choice::Stock)
        .qemu(&["-icount", "shift=0,sleep=off"])
        .disk(DISK)
        .vmm(vmm)
        .l1("cp /run/stats.json /run/stats.end\nsay_reports end")
        .each_run(|_, run| {
            let clock = guest(run, "clocksource")?;
            expect(clock == "tsc", || {
                format!("the guest's clock is {clock}, not the time-stamp counter")
            })
        })
        .check(|outcome| {
            let stats = outcome.transcript.lab("stats").next().unwrap_or_default();
            expect(stats.contains("\"ACPI PM timer\""), || {
                "the statistics do not name the PM timer".into()
            })
        })
}

/// Without ACPI, Linux takes processors, interrupt controllers and pins from the MP table, and
/// configuration space from ports 0xcf8 and 0xcfc. It cannot power off, so the guest ends with a
/// triple fault.
fn without_acpi() -> Scenario {
    let vmm = |cpus: u32| {
        Vmm::new(format!("--memory 256M --no-reboot --cpus {cpus}"))
            .cmdline("acpi=off reboot=t lab.act=reboot")
            .exits(3)
    };
    let pin = Vmm::new("--memory 256M --no-reboot")
        .cmdline("acpi=off reboot=t pci=nomsi lab.act=reboot")
        .exits(3);
    Scenario::new("a_guest_without_acpi")
        .disk(DISK)
        .vmm(vmm(1))
        .vmm(vmm(4))
        .vmm(pin)
        .each_run(|round, run| {
            let (cpus, chip) = match round {
                0 => ("1", "MSI"),
                1 => ("4", "MSI"),
                _ => ("1", "IO-APIC"),
            };
            uses(run, cpus)?;
            interrupts_by(run, chip)
        })
        .check(|outcome| {
            let runs = outcome.transcript.runs();
            let run = runs.first().ok_or_else(|| Error::failed("no run"))?;
            worked(outcome, run, &DISK)
        })
}

/// Runs with fewer processors, without x2APIC or ECAM, without a stable counter, with less memory
/// than there is.
fn with_less() -> Scenario {
    let scenario = Scenario::new("a_guest_without_its_usual_helpers").disk(DISK);
    let scenario = PARAMETERS
        .iter()
        .fold(scenario, |scenario, (cpus, words, _)| {
            scenario.vmm(Vmm::new(format!("--memory 256M --cpus {cpus}")).cmdline(*words))
        });
    scenario.each_run(|round, run| {
        let (.., cpus) = PARAMETERS[round as usize];
        uses(run, cpus)
    })
}

fn uses(run: &Run<'_>, cpus: &str) -> Result<()> {
    let used = guest(run, "cpus")?;
    expect(used == cpus, || {
        format!("\"{}\" uses {used} CPUs, not {cpus}", run.command())
    })
}

fn interrupts_by(run: &Run<'_>, chip: &str) -> Result<()> {
    expect(run.guest("irq").any(|line| line.contains(chip)), || {
        format!("\"{}\" has no {chip} interrupt", run.command())
    })
}
