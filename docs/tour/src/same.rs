//! Compares two VMMs by their calls, as `mini-vmm trace --json` has them: for opening, memory, BAR,
//! interrupt and DMA, both make the same calls in the same order. What the second makes besides
//! must stand in a table, by name.

use std::collections::BTreeSet;

use serde_json::Value;

/// Five subjects, and the calls of each: the kind of the file on which a call is made, its name,
/// and what the call is about where one name serves for several things.
pub const SUBJECTS: [(&str, &[&str]); 5] = [
    (
        "opening",
        &[
            "vm KVM_CREATE_DEVICE",
            "container openat",
            "group openat",
            "group VFIO_GROUP_SET_CONTAINER",
            "container VFIO_SET_IOMMU",
            "kvm-device KVM_SET_DEVICE_ATTR",
            "group VFIO_GROUP_GET_DEVICE_FD",
            "device VFIO_DEVICE_GET_REGION_INFO of configuration space",
        ],
    ),
    (
        "memory",
        &[
            "kvm openat",
            "kvm KVM_CREATE_VM",
            "vm KVM_SET_USER_MEMORY_REGION of RAM",
        ],
    ),
    (
        "BAR",
        &[
            "device VFIO_DEVICE_GET_REGION_INFO of BAR 0",
            "device mmap of BAR 0",
            "vm KVM_SET_USER_MEMORY_REGION of a BAR",
        ],
    ),
    (
        "interrupt",
        &[
            "vm KVM_CREATE_IRQCHIP",
            "vm KVM_SET_GSI_ROUTING",
            "vm KVM_IRQFD of a message",
            "device VFIO_DEVICE_SET_IRQS of MSI",
        ],
    ),
    ("DMA", &["container VFIO_IOMMU_MAP_DMA"]),
];

/// Guest-physical addresses from here on are BARs; RAM ends below.
const FIRST_BAR: u64 = 0xc000_0000;
/// GSIs from here on are messages; those below are pins.
const FIRST_MESSAGE: u64 = 24;

/// The calls of a trace in order, each by its name in [`SUBJECTS`] or in the table.
///
/// # Errors
/// A line that is no JSON.
pub fn calls(trace: &str) -> Result<Vec<String>, String> {
    let lines = trace.lines().filter(|line| line.starts_with('{'));
    let values = lines.map(|line| serde_json::from_str(line).map_err(|e| format!("{e}: {line}")));
    let values: Vec<Value> = values.collect::<Result<_, _>>()?;
    Ok(values.iter().filter_map(name).collect())
}

/// The field of what a call was given.
fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
    &line["in"][name]
}

fn number(value: &Value) -> u64 {
    let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let text = value.as_str();
    let decimal = text.and_then(|text| text.parse().ok());
    let number = value.as_u64().or(decimal).or_else(|| hex(text?));
    number.unwrap_or(0)
}

/// The name of a call; `None` for what is no call on a file of KVM, VFIO or iommufd.
fn name(line: &Value) -> Option<String> {
    let call = line["call"].as_str()?;
    let kind = line["kind"].as_str().unwrap_or("memory");
    let index = field(line, "index").as_str().unwrap_or("");
    let text = |name: &str| field(line, name).to_string();
    let of = match call {
        "VFIO_DEVICE_GET_REGION_INFO" => match index {
            "VFIO_PCI_BAR0_REGION_INDEX" => " of BAR 0",
            "VFIO_PCI_CONFIG_REGION_INDEX" => " of configuration space",
            _ => " of others",
        },
        "VFIO_DEVICE_SET_IRQS" => match index {
            "VFIO_PCI_MSI_IRQ_INDEX" if text("flags").contains("EVENTFD") => " of MSI",
            _ => " of others",
        },
        "KVM_SET_USER_MEMORY_REGION" if number(field(line, "memory_size")) == 0 => " of nothing",
        "KVM_SET_USER_MEMORY_REGION" => match number(field(line, "guest_phys_addr")) < FIRST_BAR {
            true => " of RAM",
            false => " of a BAR",
        },
        "KVM_IRQFD" if text("flags").contains("DEASSIGN") => " for the last time",
        "KVM_IRQFD" => match number(field(line, "gsi")) < FIRST_MESSAGE {
            true => " of a pin",
            false => " of a message",
        },
        "KVM_SET_DEVICE_ATTR" if text("attr").contains("DEL") => " of a file that goes",
        "mmap" if kind == "device" => " of BAR 0",
        _ => "",
    };
    Some(format!("{kind} {call}{of}"))
}

/// The names in the first column of a table, whose other columns give the reasons.
pub fn table(chapter: &str) -> Vec<&str> {
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0))
        .collect()
}

/// Compares the calls of `own` with those of `other`, whose further calls are in `table`.
///
/// # Errors
/// The first difference.
pub fn compare(own: &[String], other: &[String], table: &[&str]) -> Result<(), String> {
    for (subject, names) in SUBJECTS {
        let of = |calls: &[String]| -> Vec<String> {
            let calls = calls.iter().filter(|call| names.contains(&call.as_str()));
            calls.cloned().collect()
        };
        let (own, other) = (of(own), of(other));
        if let Some(name) = names.iter().find(|name| !own.iter().any(|c| c == *name)) {
            return Err(format!("{subject}: your own VMM never makes {name}"));
        }
        if own != other {
            return Err(format!(
                "{subject}: your own VMM makes {own:?}, and mini-vmm {other:?}"
            ));
        }
    }
    let own: BTreeSet<&str> = own.iter().map(String::as_str).collect();
    let other: BTreeSet<&str> = other.iter().map(String::as_str).collect();
    let besides: BTreeSet<&str> = other.difference(&own).copied().collect();
    let listed: BTreeSet<&str> = table.iter().copied().collect();
    if let Some(name) = besides.difference(&listed).next() {
        return Err(format!("mini-vmm makes {name}, and the table lacks it"));
    }
    if let Some(name) = listed.difference(&besides).next() {
        return Err(format!(
            "the table has {name}, which mini-vmm does not make besides"
        ));
    }
    match own.difference(&other).next() {
        Some(name) => Err(format!("mini-vmm never makes {name}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each call of the subjects once, in order.
    fn own() -> Vec<String> {
        let names = SUBJECTS.iter().flat_map(|(_, names)| names.iter());
        names.map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_difference_is_found() {
        let own = own();
        let mut other = own.clone();
        other.insert(3, "kvm KVM_GET_API_VERSION".into());
        let table = ["kvm KVM_GET_API_VERSION"];
        assert_eq!(compare(&own, &other, &table), Ok(()));
        let lacks = compare(&own, &other, &[]).unwrap_err();
        assert!(lacks.ends_with("and the table lacks it"), "{lacks}");
        let more = compare(&own, &own, &table).unwrap_err();
        assert!(more.ends_with("does not make besides"), "{more}");
        for index in 0..own.len() {
            let mut less = own.clone();
            less.remove(index);
            assert!(compare(&own, &less, &[]).is_err(), "{}", own[index]);
            assert!(compare(&less, &own, &[]).is_err(), "{}", own[index]);
            let mut twice = own.clone();
            twice.insert(index, own[index].clone());
            assert!(compare(&own, &twice, &[]).is_err(), "{}", own[index]);
        }
        let mut turned = own.clone();
        turned.swap(2, 3);
        let turned = compare(&own, &turned, &[]).unwrap_err();
        assert!(turned.starts_with("opening: "), "{turned}");
    }

    #[test]
    fn one_name_of_the_kernel_may_be_several_calls() {
        let line = |kind: &str, call: &str, fields: &str| {
            format!("{{\"kind\":\"{kind}\",\"call\":\"{call}\",\"in\":{{{fields}}}}}\n")
        };
        let slot = "KVM_SET_USER_MEMORY_REGION";
        let trace = line(
            "vm",
            slot,
            "\"guest_phys_addr\":\"0x0\",\"memory_size\":\"0x1000\"",
        ) + &line(
            "vm",
            slot,
            "\"guest_phys_addr\":\"0xc0000000\",\"memory_size\":\"0x1000\"",
        ) + &line(
            "vm",
            slot,
            "\"guest_phys_addr\":\"0xc0000000\",\"memory_size\":\"0x0\"",
        ) + &line("vm", "KVM_IRQFD", "\"gsi\":4,\"flags\":0")
            + &line("vm", "KVM_IRQFD", "\"gsi\":24,\"flags\":0")
            + &line(
                "vm",
                "KVM_IRQFD",
                "\"gsi\":24,\"flags\":\"KVM_IRQFD_FLAG_DEASSIGN\"",
            )
            + "not a line of the trace\n{\"type\":\"exit\"}\n";
        assert_eq!(
            calls(&trace).unwrap(),
            [
                "vm KVM_SET_USER_MEMORY_REGION of RAM",
                "vm KVM_SET_USER_MEMORY_REGION of a BAR",
                "vm KVM_SET_USER_MEMORY_REGION of nothing",
                "vm KVM_IRQFD of a pin",
                "vm KVM_IRQFD of a message",
                "vm KVM_IRQFD for the last time",
            ]
        );
        assert!(calls("{no").is_err());
    }

    #[test]
    fn a_table_has_names_in_its_first_column() {
        let chapter = "| call | why |\n| --- | --- |\n| `kvm A` | because `x` |\n| `vm B` | y |\n";
        assert_eq!(table(chapter), ["kvm A", "vm B"]);
    }
}
