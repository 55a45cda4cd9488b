//! Prints the list for programs. docs/host.md documents the fields. Their names do not change.

use pci::Bdf;
use serde::Serialize;

use crate::class::class_name;
use crate::details::{HostBar, VirtualFunctions};
use crate::list::{Item, List, Mediated, State};
use crate::persist::Persistent;

#[derive(Serialize)]
struct Listing<'a> {
    devices: Vec<Device<'a>>,
    mediated_devices: Vec<MediatedDevice<'a>>,
    absent: Vec<Absent<'a>>,
}

#[derive(Serialize)]
struct Absent<'a> {
    address: Bdf,
    driver: &'a str,
    modalias: &'a str,
}

#[derive(Serialize)]
struct Rule<'a> {
    driver: &'a str,
    user: Option<u32>,
    same_device: bool,
}

#[derive(Serialize)]
struct MediatedDevice<'a> {
    uuid: String,
    parent: Option<&'a str>,
    r#type: Option<&'a str>,
    api: &'a str,
    group: Option<u32>,
    driver: Option<&'a str>,
    state: &'a str,
}

#[derive(Serialize)]
struct Device<'a> {
    address: Bdf,
    group: Option<u32>,
    class: String,
    class_name: &'a str,
    vendor_id: String,
    device_id: String,
    subsystem_vendor_id: String,
    subsystem_device_id: String,
    vendor: Option<&'a str>,
    name: Option<&'a str>,
    driver: Option<&'a str>,
    reset_methods: &'a [String],
    bars: &'a [HostBar],
    rom_size: Option<u64>,
    numa_node: Option<u32>,
    virtual_functions: Option<VirtualFunctions>,
    physical_function: Option<Bdf>,
    power_state: Option<&'a str>,
    state: &'a str,
    held_by: Vec<Bdf>,
    shared_with: &'a [Bdf],
    mediated_devices: Vec<MediatedDevice<'a>>,
    uses: &'a [String],
    under_way: Option<Call<'a>>,
    names: &'a [String],
    persistent: Option<Rule<'a>>,
}

#[derive(Serialize)]
struct Call<'a> {
    call: &'a str,
    pid: u32,
    since: u64,
    sleeps: bool,
    text: String,
}

/// Prints one JSON object with the arrays `devices`, `mediated_devices` and `absent`, over several
/// lines.
///
/// # Errors
/// serde_json's signature requires an error, but these types cause no error.
pub fn to_json(list: &List) -> serde_json::Result<String> {
    let listing = Listing {
        devices: list.items.iter().map(device).collect(),
        mediated_devices: list.mediated.iter().map(mediated).collect(),
        absent: list.absent.iter().map(absent).collect(),
    };
    let mut text = serde_json::to_string_pretty(&listing)?;
    text.push('\n');
    Ok(text)
}

fn absent(rule: &Persistent) -> Absent<'_> {
    Absent {
        address: rule.device,
        driver: &rule.driver,
        modalias: &rule.modalias,
    }
}

fn mediated((uuid, facts): &Mediated) -> MediatedDevice<'_> {
    MediatedDevice {
        uuid: uuid.hyphenated().to_string(),
        parent: facts.parent.as_deref(),
        r#type: facts.kind.as_deref(),
        api: &facts.api,
        group: facts.group,
        driver: facts.driver.as_deref(),
        state: match facts.group {
            _ if !facts.is_pci() => "no-pci",
            Some(_) => "ready",
            None => "no-group",
        },
    }
}

fn device(item: &Item) -> Device<'_> {
    let (device, details) = (&item.device, &item.details);
    let held_by = match &item.state {
        State::Blocked(culprits) => culprits.iter().map(|c| c.bdf).collect(),
        _ => Vec::new(),
    };
    Device {
        address: device.bdf,
        group: device.group,
        class: format!("{:06x}", device.class),
        class_name: class_name(device.class),
        vendor_id: format!("{:04x}", details.id.0),
        device_id: format!("{:04x}", details.id.1),
        subsystem_vendor_id: format!("{:04x}", details.subsystem.0),
        subsystem_device_id: format!("{:04x}", details.subsystem.1),
        vendor: item.vendor.as_deref(),
        name: item.name.as_deref(),
        driver: device.driver.as_deref(),
        reset_methods: &details.reset_methods,
        bars: &details.bars,
        rom_size: details.rom,
        numa_node: details.numa_node,
        virtual_functions: details.virtual_functions,
        physical_function: details.physical_function,
        power_state: details.power_state.as_deref(),
        state: match item.state {
            State::Ready => "ready",
            State::Bound(_) => "bound",
            State::Unbound => "unbound",
            State::Blocked(_) => "blocked",
            State::NoGroup => "no-group",
            State::Bridge => "bridge",
        },
        held_by,
        shared_with: &item.shared_with,
        mediated_devices: item.mediated.iter().map(mediated).collect(),
        uses: &item.uses,
        under_way: item.under_way.as_ref().map(|state| Call {
            call: &state.call,
            pid: state.pid(),
            since: state.since,
            sleeps: state.sleeps(),
            text: state.describe(device.bdf),
        }),
        names: &item.names,
        persistent: item.kept.as_ref().map(|kept| Rule {
            driver: &kept.rule.driver,
            user: kept.rule.user,
            same_device: kept.other.is_none(),
        }),
    }
}
