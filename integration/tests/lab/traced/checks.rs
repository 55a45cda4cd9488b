//! What a trace in JSON must say of a guest with a disk.

use std::collections::{BTreeMap, BTreeSet};

use lab::expect::expect;
use lab::{Error, Result};
use serde_json::Value;

/// The lines of a trace, and its summary.
pub struct Trace {
    pub lines: Vec<Value>,
    pub summary: Value,
}

impl Trace {
    pub fn parse(text: &str) -> Result<Self> {
        let parsed: std::result::Result<Vec<Value>, _> =
            text.lines().map(serde_json::from_str).collect();
        let mut lines = parsed.map_err(|error| Error::failed(format!("the trace: {error}")))?;
        match lines.pop() {
            Some(summary) if summary["type"] == "summary" => Ok(Self { lines, summary }),
            last => Err(Error::failed(format!("the trace ends with {last:?}"))),
        }
    }

    fn of<'a>(&'a self, key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().filter(move |line| line[key] == value)
    }

    /// Accesses of the guest: exits, and writes that KVM has kept.
    pub fn accesses(&self) -> impl Iterator<Item = &Value> {
        let kinds = ["exit", "coalesced"];
        let of_guest = move |line: &&Value| kinds.iter().any(|kind| line["type"] == *kind);
        self.lines
            .iter()
            .filter(of_guest)
            .filter(|line| line["space"].is_string())
    }

    /// Each call has a name, and each number in it that is a name's has the name.
    pub fn all_is_decoded(&self) -> Result<()> {
        expect(self.summary["unknown_calls"] == 0, || {
            let unknown: Vec<_> = self.lines.iter().filter(|l| l["known"] == false).collect();
            format!("calls are not decoded: {unknown:?}")
        })?;
        for line in &self.lines {
            let mut hidden = Vec::new();
            // Descriptors of KVM's structures are records of their own.
            if line["call"] != "close" {
                undecoded(&line["in"], "in", &mut hidden);
            }
            undecoded(&line["out"], "out", &mut hidden);
            expect(hidden.is_empty(), || {
                format!("{hidden:?} are not decoded in {line}")
            })?;
        }
        expect(self.lines.len() > 1000, || {
            format!("only {} lines", self.lines.len())
        })
    }

    /// What the tracer has seen is what mini-vmm has counted.
    pub fn counts_are(&self, stats: &Value) -> Result<()> {
        let (seen, counted) = (&self.summary["exits"], &stats["exits"]);
        for key in ["total", "coalesced_writes", "other_registers"] {
            expect(seen[key] == counted[key] && counted[key].is_u64(), || {
                format!(
                    "{key}: {} were seen, and {} counted",
                    seen[key], counted[key]
                )
            })?;
        }
        let (by_reason, counted_reasons) = (reasons(seen), reasons(counted));
        expect(by_reason == counted_reasons, || {
            format!("{by_reason:?} were seen, and {counted_reasons:?} counted")
        })?;
        // The trace's own lines say the same: KVM_RUN has returned so often.
        let returns = self
            .of("type", "exit")
            .filter(|line| line["immediate"] == false);
        let returns = returns.count() as u64;
        expect(counted["total"] == returns, || {
            format!(
                "{returns} returns are shown, and {} counted",
                counted["total"]
            )
        })?;
        let immediate = self
            .of("type", "exit")
            .filter(|line| line["immediate"] == true);
        expect(immediate.count() == 1, || {
            format!("{} returns with immediate_exit", seen["immediate"])
        })?;
        let (seen, counted) = (registers(seen), registers(counted));
        expect(seen == counted && seen.len() > 20, || {
            let different: Vec<_> = seen.symmetric_difference(&counted).collect();
            format!("registers differ: {different:?}")
        })
    }

    /// Files are named by what they are.
    pub fn files_have_names(&self, interface: &str) -> Result<()> {
        let files = self.lines.iter().filter_map(|line| line["file"].as_str());
        let files: BTreeSet<_> = files.collect();
        for name in [interface, "kvm", "vm", "vcpu 0", "device 0000:00:05.0"] {
            expect(files.contains(name), || {
                format!("nothing is named {name}: {files:?}")
            })?;
        }
        expect(!files.iter().any(|file| file.contains('?')), || {
            format!("files have no names: {files:?}")
        })
    }

    /// Each access to the data ports of configuration space has function and register.
    pub fn config_accesses_have_names(&self) -> Result<()> {
        let data = ["0xcfc", "0xcfd", "0xcfe", "0xcff"];
        let mut count = 0;
        let mut functions = BTreeSet::new();
        for line in self.accesses() {
            let is_data = data.iter().any(|port| line["address"] == *port);
            if line["space"] == "port" && is_data {
                let (function, register) = (line["function"].as_str(), line["register"].as_str());
                let named = function.is_some() && register.is_some_and(is_name);
                expect(named, || format!("an access has no names: {line}"))?;
                functions.extend(function);
                count += 1;
            }
        }
        expect(count > 100 && functions.len() >= 2, || {
            format!("only {count} accesses to configuration space, of {functions:?}")
        })
    }

    /// Each write to an entry of the MSI-X table is named, and each entry that is unmasked has
    /// vector, address and CPU.
    pub fn messages_are_whole(&self) -> Result<()> {
        let mut unmasked = BTreeSet::new();
        for line in self.accesses().filter(|line| line["write"] == true) {
            let Some(register) = line["register"].as_str() else {
                continue;
            };
            let Some((entry, field)) = register.split_once("] ") else {
                continue;
            };
            let note = line["note"].as_str().unwrap_or_default();
            let parts: &[&str] = match field {
                // An entry that the guest gives up is masked and zero.
                "address" | "data" if line["value"] == "0x0" => &[],
                "address" => &["CPU"],
                "data" => &["vector 0x", "CPU"],
                "vector control" if note != "masked" => {
                    unmasked.insert(entry.to_string());
                    &["unmasked: address 0xfee", "vector 0x", "CPU"]
                }
                _ => &[],
            };
            expect(parts.iter().all(|part| note.contains(part)), || {
                format!("an entry is not decoded: {line}")
            })?;
        }
        expect(!unmasked.is_empty(), || "no entry was unmasked".into())
    }

    /// Each eventfd that the device signals for MSI-X is one that KVM listens to.
    pub fn one_eventfd(&self) -> Result<()> {
        let mut heard = BTreeSet::new();
        for line in self.of("call", "KVM_IRQFD") {
            eventfds(&line["in"], &mut heard);
        }
        let mut signalled = BTreeSet::new();
        for line in self.of("call", "VFIO_DEVICE_SET_IRQS") {
            if line["in"]["index"].to_string().contains("MSIX") {
                eventfds(&line["in"], &mut signalled);
            }
        }
        expect(!signalled.is_empty() && signalled.is_subset(&heard), || {
            format!("the device signals {signalled:?}, and KVM listens to {heard:?}")
        })
    }
}

/// Whether this names a register. Reserved are only those that the specification reserves in a
/// header of type 0 (PCI Express 6.0, 7.5.1.2). What belongs to no capability is the device's own,
/// and so is what follows the length of a vendor-specific one; each other offset is no name.
fn is_name(register: &str) -> bool {
    let Some((name, offset)) = register.split_once(" +0x") else {
        return !register.starts_with('+');
    };
    let reserved = u16::from_str_radix(offset, 16).is_ok_and(|at| (0x35..=0x3b).contains(&at));
    match name {
        "reserved" => reserved,
        "device-specific" | "vendor-specific" => true,
        _ => false,
    }
}

/// Names of fields that the trace could not read, or whose flags have bits without a name.
fn undecoded(value: &Value, name: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let rest = fields.get("rest").is_some_and(|rest| rest != "0x0");
            if fields.contains_key("unreadable") || (rest && fields.contains_key("names")) {
                into.push(name.to_string());
            }
            // A number below zero stands for no descriptor; the own one of close(2) is a number.
            let fd = fields.get("fd").and_then(Value::as_i64);
            if fd.is_some_and(|fd| fd >= 0) && !fields.contains_key("file") {
                into.push(format!("{name} (file)"));
            }
            for (name, field) in fields {
                undecoded(field, name, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| undecoded(value, name, into)),
        _ => {}
    }
}

fn reasons(exits: &Value) -> BTreeMap<String, u64> {
    let reasons = exits["by_reason"].as_object().into_iter().flatten();
    let counts = reasons.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(u64::MAX)));
    counts.filter(|(_, count)| *count > 0).collect()
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
