//! `mini-vmm trace --kernel`: the way of a device's interrupt through the kernel, from VFIO's
//! handler to the injection into the guest, with KVM's irqfd and with a thread instead.

use lab::disk::Disk;
use lab::error::Error;
use lab::expect::{ended_well, expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Result, vmm};
use serde_json::Value;

use crate::devices;

/// The disk on which L1 leaves the traces.
const DISK: Disk = Disk::new("traces", 5);

/// Interrupts by MSI that the guest raises at least.
const RAISED: usize = 100;

/// A tracer is killed in the middle; the next one removes what is left of it.
const SCRIPT: &str = "\
bdf=0000:00:0b.0
bind_vfio $bdf
[ -d /sys/kernel/tracing/instances ] || mount -t tracefs tracefs /sys/kernel/tracing
instances() { ls /sys/kernel/tracing/instances | wc -l; }
words=\"$cmdline lab.act=edu vfio.enable_unsafe_noiommu_mode=1\"
trace() {
	run_as '' mini-vmm-trace --kernel --json --only kernel,eventfd,vm --output /run/trace$1 -- \\
		mini-vmm $boot --memory 256M --cmdline \"$words\" --vfio $bdf$2
	say \"instances $(instances)\"
}
mini-vmm-trace --kernel --output /run/killed -- sleep 1000 &
killed=$!
for _ in $(seq 100); do
	[ -s /run/killed ] && break
	sleep 0.1
done
kill -KILL $killed
wait $killed || :
say \"instances $(instances)\"
trace 0 ''
trace 1 ,irqfd=off
say \"traces $(wc -c </run/trace0) $(wc -c </run/trace1)\"
cat /run/trace0 /run/trace1 | dd of=$(disk_of 0000:00:05.0) bs=64k conv=fsync 2>/dev/null
say \"written\"
";

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("each_interrupt_is_a_chain_of_the_kernels_events")
            .qemu(&["-device", "edu,addr=b"])
            .disk(DISK)
            .built("mini-vmm-trace", vmm::tracer)
            .degraded(&[&["no-reset"], &["no-reset"]])
            .script(SCRIPT, chains)
            .apart(),
    ]
}

fn chains(outcome: &Outcome) -> Result<()> {
    let left: Vec<_> = outcome.transcript.lab("instances").collect();
    expect(left == ["1", "0", "0"], || {
        format!("instances of tracefs after a SIGKILL and after each run: {left:?}")
    })?;
    let sizes = outcome.transcript.lab("traces").next().unwrap_or_default();
    let sizes: Vec<usize> = sizes.split(' ').filter_map(|n| n.parse().ok()).collect();
    let image = outcome.image(DISK.serial);
    let bytes = std::fs::read(&image)
        .map_err(|error| Error::failed(format!("read {}: {error}", image.display())))?;
    let [first, second] = sizes[..] else {
        return Err(Error::failed(format!("L1 has kept no traces: {sizes:?}")));
    };
    let text = bytes.get(..first + second).unwrap_or_default();
    let (with, without) = text.split_at_checked(first).unwrap_or_default();
    for (index, text) in [with, without].into_iter().enumerate() {
        let run = run(outcome, index)?;
        ended_well(&run)?;
        devices::edu_did(&run)?;
        let lines = String::from_utf8_lossy(text);
        let mut lines: Vec<Value> = lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        in_order(&lines)?;
        // A call that waits for long comes late.
        lines.sort_by_key(|line| line["time_ns"].as_u64());
        check(&lines, index == 1)?;
    }
    Ok(())
}

/// Nothing was lost, and no more stands behind later events than is told.
fn in_order(lines: &[Value]) -> Result<()> {
    let kernel = lines.last().map(|line| &line["kernel"]);
    let number = |key: &str| kernel.and_then(|kernel| kernel[key].as_u64());
    let lost = number("lost");
    expect(lost == Some(0), || format!("{lost:?} records were lost"))?;
    let (mut last, mut behind) = (0, 0);
    for time in lines.iter().filter_map(|line| line["time_ns"].as_u64()) {
        behind += u64::from(time < last);
        last = last.max(time);
    }
    let late = number("late");
    eprintln!("  {} lines, {behind} of {late:?} late", lines.len());
    expect(late.is_some_and(|late| behind <= late), || {
        format!("{behind} events are late, and {late:?} are told")
    })
}

/// The chains of the interrupts by MSI, and whether a thread of mini-vmm stands inside of each.
fn check(lines: &[Value], by_thread: bool) -> Result<()> {
    let handlers: Vec<usize> = (0..lines.len())
        .filter(|at| {
            let name = lines[*at]["fields"]["name"].as_str().unwrap_or_default();
            lines[*at]["event"] == "irq_handler_entry" && name.starts_with("vfio-msi")
        })
        .collect();
    let (mut whole, mut with_thread) = (0, 0);
    for (i, at) in handlers.iter().enumerate() {
        let end = handlers.get(i + 1).copied().unwrap_or(lines.len());
        let rest = &lines[at + 1..end];
        let find = |from: usize, event: &str, vector: Option<u64>| {
            let found = rest[from..].iter().position(|line| {
                let seen = line["fields"]["vector"].as_u64();
                let seen = seen.or_else(|| line["fields"]["vec"].as_u64());
                line["event"] == event && (vector.is_none() || vector == seen)
            });
            found.map(|at| from + at)
        };
        let Some(message) = find(0, "kvm_msi_set_irq", None) else {
            continue;
        };
        let vector = rest[message]["fields"]["vector"].as_u64();
        let accepted = find(message + 1, "kvm_apic_accept_irq", vector);
        let injected = accepted.and_then(|at| find(at + 1, "kvm_inj_virq", vector));
        let Some(injected) = injected else { continue };
        let times = [message, accepted.unwrap_or(0), injected].map(|at| &rest[at]["time_ns"]);
        let times: Vec<u64> = std::iter::once(&lines[*at]["time_ns"])
            .chain(times)
            .filter_map(Value::as_u64)
            .collect();
        expect(times.len() == 4 && times.is_sorted(), || {
            format!("the times of a chain do not rise: {times:?}")
        })?;
        whole += 1;
        let calls = rest[..message].iter().filter(|line| line["type"] == "call");
        with_thread += usize::from(calls.count() > 0);
    }
    eprintln!(
        "  {} handlers, {whole} chains, {with_thread} with a thread inside",
        handlers.len()
    );
    expect(handlers.len() >= RAISED && whole == handlers.len(), || {
        format!("{whole} chains for {} handlers", handlers.len())
    })?;
    expect(
        match by_thread {
            true => with_thread == whole,
            false => with_thread == 0,
        },
        || format!("a thread stands inside of {with_thread} of {whole} chains"),
    )
}
