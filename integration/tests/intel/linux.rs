//! Linux guests on VMX and EPT: work on several vCPUs with AVX, reboots, a triple fault, the
//! interrupts of a mediated device, and `host check`.

use lab::bochs::{BROADWELL, Bochs, ICE_LAKE};
use lab::command::Vmm;
use lab::expect::{ended_well, expect, guest, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::{Run, number};
use lab::{Error, Result};

/// Virtual CPUs, twice as many as L1 has.
const CPUS: u64 = 4;

/// A mediated device of mtty.
const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Lines that the guest sends through each port of the card (integration/resources/l2-acts.sh).
const LINES: usize = 20;

fn on(model: &'static str, name: &'static str) -> Scenario {
    Scenario::new(name)
        .limit(600)
        .machine(|machine| machine.bochs = Some(Bochs::with_vmx(model)))
}

pub fn all() -> Vec<Scenario> {
    vec![
        on(BROADWELL, "linux_works_on_four_vcpus")
            .vmm(Vmm::new(format!("--memory 256M --cpus {CPUS}")).cmdline("lab.act=work"))
            // On Intel, the kernel takes the frequency of the time-stamp counter from CPUID.
            .vmm(Vmm::new("--memory 256M").cmdline("no-kvmclock lab.act=clock"))
            .each_run(|round, run| match round {
                0 => worked(run),
                _ => {
                    let clock = guest(run, "clocksource")?;
                    // Linux may still be about to compare the counter with another clock.
                    expect(clock == "tsc" || clock == "tsc-early", || {
                        format!("without KVM's clock, the guest's clock is {clock}")
                    })
                }
            }),
        on(ICE_LAKE, "reboots_and_a_triple_fault")
            .vmm(
                Vmm::new("-v --memory 256M --cpus 2")
                    .cmdline("lab.act=reboot")
                    .meanwhile(UNTIL_THE_THIRD_BOOT)
                    .exits(0),
            )
            .vmm(
                Vmm::new("--memory 256M --no-reboot")
                    .cmdline("reboot=t lab.act=reboot")
                    .exits(3),
            )
            .check(rebooted),
        on(ICE_LAKE, "a_mediated_devices_interrupts_are_moved")
            .before(format!("make_mdev {UUID} mtty-2"))
            .vmm(
                Vmm::new(format!("--memory 256M --cpus {CPUS} --iommu iommufd"))
                    .cmdline("lab.act=serial-moved")
                    .devices(format!("--vfio {UUID}")),
            )
            .degraded(&[&["intx-by-thread", "no-request-event", "no-reset"]])
            .each_run(|_, run| echoed(run))
            .l1(format!("remove_mdev {UUID}\nhost check --json"))
            .check(checked),
    ]
}

/// Waits for the third boot, and then ends the run.
const UNTIL_THE_THIRD_BOOT: &str = "
for _ in $(seq 3000); do
	[ \"$(grep -c 'L2: init' /run/vmm.console)\" -lt 3 ] || break
	sleep 0.1
done
kill -TERM $vmm_pid
";

fn worked(run: &Run<'_>) -> Result<()> {
    let cpus = guest(run, "cpus")?;
    expect(cpus == CPUS.to_string(), || {
        format!("the guest has {cpus} CPUs")
    })?;
    let vectors = guest(run, "vectors")?;
    expect(
        number(vectors, "threads") == Some(2 * CPUS) && number(vectors, "wrong") == Some(0),
        || format!("threads lost the values of their AVX registers: {vectors}"),
    )?;
    let sums = guest(run, "sums")?;
    expect(sums == format!("1 of={CPUS}"), || {
        format!("the CPUs computed different checksums: {sums}")
    })?;
    let ticks = guest(run, "ticks")?;
    let ticks: Vec<_> = ticks
        .split_whitespace()
        .map(|n| n.parse().unwrap_or(0))
        .collect();
    expect(
        ticks.len() as u64 == CPUS && ticks.iter().all(|&n: &u64| n > 0),
        || format!("a CPU has no timer interrupts: {ticks:?}"),
    )?;
    let flags = guest(run, "flags")?;
    let flags: Vec<_> = flags.split(' ').collect();
    for flag in ["avx2", "xsave", "x2apic", "tsc_deadline_timer"] {
        expect(flags.contains(&flag), || {
            format!("the guest's /proc/cpuinfo lacks {flag}: {flags:?}")
        })?;
    }
    Ok(())
}

fn rebooted(outcome: &Outcome) -> Result<()> {
    let first = run(outcome, 0)?;
    let boots = first.guest("init").count();
    expect(boots >= 3, || {
        format!("the guest booted {boots} times, not 3")
    })?;
    expect(first.exit() == Some(0), || {
        format!("the signal ended the run with {:?}", first.exit())
    })?;
    let second = run(outcome, 1)?;
    let boots = second.guest("init").count();
    expect(boots == 1, || {
        format!("the guest booted {boots} times, not once")
    })
}

/// Every line came back while the pin's interrupt moved, and each CPU got interrupts.
fn echoed(run: &Run<'_>) -> Result<()> {
    ended_well(run)?;
    let lines = run.guest("echoed").count();
    expect(lines == 2 * LINES, || {
        format!("{lines} lines came back, not {}", 2 * LINES)
    })?;
    let heard: Vec<_> = run.guest("heard").collect();
    let silent = heard
        .iter()
        .filter(|fact| number(fact, "interrupts") == Some(0));
    expect(heard.len() as u64 == CPUS && silent.count() == 0, || {
        format!("the interrupt did not come to each CPU: {heard:?}")
    })
}

/// `host check` finds VMX, and finds that there is no IOMMU.
fn checked(outcome: &Outcome) -> Result<()> {
    let transcript = &outcome.transcript;
    let text: String = transcript.lab("host-out").collect();
    let findings: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Error::failed(format!("host check wrote no JSON: {e}: {text}")))?;
    let level = |name: &str| {
        let mut all = findings["checks"].as_array()?.iter();
        all.find(|finding| finding["name"] == name)?["level"].as_str()
    };
    expect(
        [level("kvm"), level("iommu")] == [Some("pass"), Some("fail")],
        || format!("host check judges KVM or the IOMMU wrongly: {findings}"),
    )?;
    let status = transcript.lab("host-exit").next();
    expect(status == Some("1"), || {
        format!("host check ended with {status:?}, although there is no IOMMU")
    })
}
