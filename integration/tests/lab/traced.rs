//! `mini-vmm trace` of guests with a passed-through disk, and of QEMU.

use std::collections::BTreeSet;

use lab::disk::Disk;
use lab::expect::{ended_well, expect, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::number;
use lab::vmm;
use lab::{Error, Result};
use serde_json::Value;

const DISK: Disk = Disk::new("lab-disk", 5);

pub fn all() -> Vec<Scenario> {
    vec![
        traced("a_traced_guest_by_a_container", "container", "container"),
        traced("a_traced_guest_by_iommufd", "iommufd", "iommufd"),
    ]
}

/// Runs a guest without and with the tracer. Of the trace, whose lines are many, it reports what
/// the checks need.
fn traced(name: &'static str, interface: &'static str, file: &'static str) -> Scenario {
    let script = format!(
        "bind_vfio 0000:00:05.0\n\
         options=\"--memory 256M --stats=/run/stats.json --iommu {interface}\"\n\
         begin=$(milliseconds)\n\
         run_vmm $boot $options --cmdline \"$cmdline\" --vfio 0000:00:05.0\n\
         middle=$(milliseconds)\n\
         run_as '' mini-vmm trace --json -o /run/trace mini-vmm $boot $options \
         --cmdline \"$cmdline\" --vfio 0000:00:05.0\n\
         end=$(milliseconds)\n\
         say \"times plain=$((middle - begin)) traced=$((end - middle))\"\n\
         cp /run/stats.json /run/stats.end\n\
         say_reports end\n\
         say \"summary $(tail -n 1 /run/trace)\"\n\
         say \"lines all=$(wc -l </run/trace) bytes=$(wc -c </run/trace)\"\n\
         data='\"address\":\"0xcf[c-f]\"'\n\
         say \"config all=$(grep -c \"$data\" /run/trace)\" \
         \"named=$(grep \"$data\" /run/trace | grep '\"function\":' | grep -c '\"register\":')\"\n\
         grep '\"register\":\"MSI-X.*vector control' /run/trace | while read -r line; do\n\
         say \"entry $line\"\ndone\n\
         grep -E '\"call\":\"(VFIO_DEVICE_SET_IRQS|KVM_IRQFD)\"' /run/trace | \
         while read -r line; do\nsay \"irq $line\"\ndone\n\
         grep -o '\"file\":\"[^\"]*\"' /run/trace | sort | uniq -c | while read -r line; do\n\
         say \"file $line\"\ndone\n\
         grep '\"known\":false' /run/trace | head -n 5 | while read -r line; do\n\
         say \"unknown $line\"\ndone\n\
         give_back 0000:00:05.0\n"
    );
    Scenario::new(name)
        .built("mini-vmm-trace", vmm::tracer)
        .disk(DISK)
        .script(script, move |outcome| check(outcome, file))
}

fn check(outcome: &Outcome, file: &str) -> Result<()> {
    for index in 0..2 {
        ended_well(&run(outcome, index)?)?;
    }
    counts_are_equal(outcome)?;
    names(outcome, file)?;
    messages(outcome)?;
    one_eventfd(outcome)?;
    let times = fact(outcome, "times ")?;
    let ratio = number(&times, "traced").zip(number(&times, "plain"));
    let ratio = ratio.map(|(traced, plain)| traced as f64 / plain as f64);
    expect(ratio.is_some_and(|ratio| ratio < MOST_SLOWDOWN), || {
        format!("tracing takes too long: {times}")
    })
}

/// The most that a boot may take, as a multiple of the boot before it without the tracer.
const MOST_SLOWDOWN: f64 = 1.25;

fn fact(outcome: &Outcome, key: &str) -> Result<String> {
    let found = outcome.transcript.lab(key.trim_end()).next();
    found
        .map(String::from)
        .ok_or_else(|| Error::failed(format!("L1 has not reported {key}")))
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::failed(format!("{e}: {text}")))
}

/// What the tracer has seen is what mini-vmm has counted.
fn counts_are_equal(outcome: &Outcome) -> Result<()> {
    let seen = json(&fact(outcome, "summary ")?)?;
    let counted = fact(outcome, "stats ")?;
    let counted = json(counted.strip_prefix("end ").unwrap_or(&counted))?;
    expect(seen["unknown_calls"] == 0, || {
        let unknown: Vec<_> = outcome.transcript.lab("unknown").collect();
        format!("calls are not decoded: {unknown:?}")
    })?;
    let (seen, counted) = (&seen["exits"], &counted["exits"]);
    for key in ["total", "coalesced_writes"] {
        expect(seen[key] == counted[key], || {
            format!(
                "{key}: {} were seen, and {} counted",
                seen[key], counted[key]
            )
        })?;
    }
    let reasons = counted["by_reason"].as_object().into_iter().flatten();
    for (reason, count) in reasons.filter(|(_, count)| **count != 0) {
        let of = &seen["by_reason"][reason];
        expect(of == count, || {
            format!("{reason}: {of} were seen, and {count} counted")
        })?;
    }
    let (seen, counted) = (registers(seen), registers(counted));
    expect(seen == counted && seen.len() > 20, || {
        let different: Vec<_> = seen.symmetric_difference(&counted).collect();
        format!("registers differ: {different:?}")
    })
}

/// Space, address, direction and number of exits of each register.
fn registers(exits: &Value) -> BTreeSet<String> {
    let registers = exits["registers"].as_array().into_iter().flatten();
    let with_exits = registers.filter(|register| register["count"] != 0);
    let parts = ["space", "address", "write", "count"];
    with_exits
        .map(|register| parts.map(|part| register[part].to_string()).join(" "))
        .collect()
}

/// Each access to configuration space has function and register, and each file a name.
fn names(outcome: &Outcome, file: &str) -> Result<()> {
    let config = fact(outcome, "config ")?;
    let (all, named) = (number(&config, "all"), number(&config, "named"));
    expect(all.is_some_and(|all| all > 100) && all == named, || {
        format!("accesses to configuration space have no names: {config}")
    })?;
    let files: Vec<_> = outcome.transcript.lab("file").collect();
    for name in [file, "vm", "vcpu 0", "device 0000:00:05.0"] {
        let quoted = format!("\"file\":\"{name}\"");
        expect(files.iter().any(|file| file.ends_with(&quoted)), || {
            format!("nothing is named {name}: {files:?}")
        })?;
    }
    expect(!files.iter().any(|file| file.contains('?')), || {
        format!("files have no names: {files:?}")
    })
}

/// Each entry that the guest unmasks has vector, address and CPU.
fn messages(outcome: &Outcome) -> Result<()> {
    let mut unmasked = 0;
    for line in outcome.transcript.lab("entry") {
        let line = json(line)?;
        if line["write"] == true && line["value"] == "0x0" {
            let note = line["note"].as_str().unwrap_or_default();
            let whole = ["unmasked: address 0xfee", "vector 0x", "CPU"];
            expect(whole.iter().all(|part| note.contains(part)), || {
                format!("an entry is not decoded: {line}")
            })?;
            unmasked += 1;
        }
    }
    expect(unmasked > 0, || "no entry was unmasked".into())
}

/// The eventfds that the device signals are those that KVM listens to.
fn one_eventfd(outcome: &Outcome) -> Result<()> {
    let (mut signalled, mut heard) = (BTreeSet::new(), BTreeSet::new());
    for line in outcome.transcript.lab("irq") {
        let line = json(line)?;
        let into = match line["call"].as_str() {
            Some("KVM_IRQFD") => &mut heard,
            _ => &mut signalled,
        };
        eventfds(&line["in"], into);
    }
    expect(signalled.iter().any(|name| heard.contains(name)), || {
        format!("the device signals {signalled:?}, and KVM listens to {heard:?}")
    })
}

fn eventfds(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("file").and_then(Value::as_str);
            into.extend(
                name.filter(|name| name.starts_with("eventfd "))
                    .map(String::from),
            );
            fields.values().for_each(|field| eventfds(field, into));
        }
        Value::Array(values) => values.iter().for_each(|value| eventfds(value, into)),
        _ => {}
    }
}
