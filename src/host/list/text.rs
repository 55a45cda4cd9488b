//! Prints the list for people, in 80 columns. A line in the margin joins the devices of a group.
//!
//! ```text
//! GROUP   DEVICE
//!     1   0000:00:05.0  NVMe controller: Red Hat, Inc. QEMU NVM Ex… [1b36:0010]
//!           ready
//!           driver vfio-pci · reset flr bus · BARs 16K
//!     4 ┌ 0000:00:07.0  NVMe controller: ...
//!       │   bound to nvme · group shared with 0000:00:07.1
//!       │   driver nvme · ...
//!       └ 0000:00:07.1  ...
//!    12   83b8f4f2-509f-382f-3c1e-e6bfe0fa1001  mediated device of mtty
//!           ...
//! ```
//!
//! A mediated device is printed below its parent, if the parent is in the list.

use crate::class::class_name;
use crate::details::{Details, Space, size_text};
use crate::list::{Item, List, Mediated, State};
use crate::style::{Style, WIDTH, cut, fill};

/// Columns before an address: group, line, spaces.
const MARGIN: usize = 8;
/// Columns before the facts of a device.
const INDENT: usize = MARGIN + 2;
/// The separator of facts.
const DOT: &str = " · ";
/// The number of devices of a group that are named below a device. The margin shows all of them.
const MOST_NAMED: usize = 3;

/// Prints the list with a heading, or a sentence if it is empty.
pub fn to_text(list: &List, style: Style) -> String {
    let items = &list.items;
    if items.is_empty() && list.mediated.is_empty() && list.absent.is_empty() {
        return "no PCI device is in an IOMMU group; `mini-vmm host list --all` shows all PCI \
                devices,\nand `mini-vmm host check` says why\n"
            .into();
    }
    let mut text = String::from("GROUP   DEVICE\n");
    for (index, item) in items.iter().enumerate() {
        let same = |other: Option<&Item>| {
            item.device.group.is_some()
                && other.is_some_and(|o| o.device.group == item.device.group)
        };
        let before = same(index.checked_sub(1).and_then(|i| items.get(i)));
        let after = same(items.get(index + 1));
        write_item(&mut text, item, before, after, style);
    }
    for device in &list.mediated {
        write_mediated(&mut text, device, style);
    }
    for rule in &list.absent {
        let line = format!("{}  absent; gets {} at each boot", rule.device, rule.driver);
        text.push_str(&format!("    -   {line}\n"));
    }
    text
}

/// Prints a mediated device whose parent is not in the list.
fn write_mediated(text: &mut String, device: &Mediated, style: Style) {
    let (uuid, facts) = device;
    let group = facts.group.map_or("-".into(), |group| group.to_string());
    let parent = facts.parent.as_deref().unwrap_or("nothing");
    let headline = format!("{}  mediated device of {parent}", uuid.hyphenated());
    text.push_str(&format!(
        "{group:>5}   {}\n",
        cut(&headline, WIDTH - MARGIN)
    ));
    let mut push = |line: String| text.push_str(&format!("{:INDENT$}{line}\n", ""));
    push(match mediated_state(device) {
        state @ "ready" => style.good(state),
        state => style.bad(state),
    });
    for line in fill(&mediated_facts(device), DOT, WIDTH - INDENT) {
        push(style.faint(&line));
    }
}

/// The state of a mediated device: whether it can be passed through, or the reason why not.
fn mediated_state((_, facts): &Mediated) -> &'static str {
    match facts.group {
        _ if !facts.is_pci() => "does not look like a PCI function",
        Some(_) => "ready",
        None => "in no IOMMU group: it has no driver",
    }
}

fn mediated_facts((_, facts): &Mediated) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(facts.kind.as_ref().map(|kind| format!("type {kind}")));
    words.extend(
        facts
            .driver
            .as_ref()
            .map(|driver| format!("driver {driver}")),
    );
    words.push(format!("used as {}", facts.api));
    words
}

fn write_item(text: &mut String, item: &Item, before: bool, after: bool, style: Style) {
    let corner = match (before, after) {
        (false, false) => ' ',
        (false, true) => '┌',
        (true, true) => '├',
        (true, false) => '└',
    };
    let line = if after { '│' } else { ' ' };
    let group = match item.device.group {
        Some(group) if !before => group.to_string(),
        Some(_) => String::new(),
        None => "-".into(),
    };
    let mut push = |text_of_line: &str| {
        text.push_str(text_of_line.trim_end());
        text.push('\n');
    };
    push(&format!("{group:>5} {corner} {}", headline(item)));
    for verdict in fill(&verdict(item), DOT, WIDTH - INDENT) {
        let painted = match item.state {
            State::Ready => style.good(&verdict),
            State::Blocked(_) | State::NoGroup => style.bad(&verdict),
            State::Bound(_) | State::Unbound => style.so_so(&verdict),
            State::Bridge => style.faint(&verdict),
        };
        push(&format!("      {line}   {painted}"));
    }
    let calls = item
        .under_way
        .iter()
        .map(|state| state.describe(item.device.bdf));
    let uses = item.uses.iter().map(|used| format!("in use: {used}"));
    let driver = item.device.driver.as_deref();
    let kept = item.kept.iter().map(|kept| kept.describe(driver));
    for remark in calls.chain(uses).chain(kept) {
        let words: Vec<_> = remark.split(' ').map(String::from).collect();
        for part in fill(&words, " ", WIDTH - INDENT) {
            push(&format!("      {line}   {}", style.so_so(&part)));
        }
    }
    for facts in fill(&facts(item), DOT, WIDTH - INDENT) {
        push(&format!("      {line}   {}", style.faint(&facts)));
    }
    for device in &item.mediated {
        let (uuid, facts) = device;
        let mut words = vec![format!("mediated device {}", uuid.hyphenated())];
        words.extend(facts.group.map(|group| format!("IOMMU group {group}")));
        words.push(mediated_state(device).into());
        words.extend(mediated_facts(device));
        for words in fill(&words, DOT, WIDTH - INDENT) {
            push(&format!("      {line}   {}", style.faint(&words)));
        }
    }
}

/// A device's first line: address, class, names cut to the width, and IDs.
fn headline(item: &Item) -> String {
    let (vendor, device) = item.details.id;
    let address = item.device.bdf;
    let class = class_name(item.device.class);
    let numbers = format!("[{vendor:04x}:{device:04x}]");
    let names: Vec<_> = [&item.vendor, &item.name].into_iter().flatten().collect();
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    let what = match names.as_slice() {
        [] => class.to_owned(),
        names => format!("{class}: {}", names.join(" ")),
    };
    let space_left = WIDTH - MARGIN - address.to_string().len() - 2 - 1 - numbers.len();
    format!("{address}  {} {numbers}", cut(&what, space_left))
}

fn verdict(item: &Item) -> Vec<String> {
    let mut words = vec![match &item.state {
        State::Ready => "ready".into(),
        State::Bound(driver) => format!("bound to {driver}"),
        State::Unbound => "bound to no driver".into(),
        State::Blocked(culprits) => {
            let names = culprits.iter().map(|c| {
                let driver = c.driver.as_deref().unwrap_or("no driver");
                format!("{} is bound to {driver}", c.bdf)
            });
            format!("its group is held: {}", some(names.collect()))
        }
        State::NoGroup if item.device.no_iommu => {
            "in VFIO's no-IOMMU mode, which isolates nothing".into()
        }
        State::NoGroup => "in no IOMMU group".into(),
        State::Bridge => "a bridge, which the host keeps".into(),
    }];
    if !item.names.is_empty() {
        words.push(format!("named {}", item.names.join(", ")));
    }
    if !item.shared_with.is_empty() && item.state != State::Bridge {
        let others = item.shared_with.iter().map(ToString::to_string);
        words.push(format!("group shared with {}", some(others.collect())));
    }
    words
}

/// The first names of a list, and the number of further names.
fn some(names: Vec<String>) -> String {
    let shown = names.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn facts(item: &Item) -> Vec<String> {
    let Details {
        reset_methods,
        bars,
        rom,
        numa_node,
        virtual_functions,
        physical_function,
        ..
    } = &item.details;
    let mut words = Vec::new();
    if let Some(driver) = &item.device.driver {
        words.push(format!("driver {driver}"));
    }
    words.push(match reset_methods.as_slice() {
        [] => "no reset".into(),
        methods => format!("reset {}", methods.join(" ")),
    });
    if !bars.is_empty() {
        let sizes = bars.iter().map(|bar| {
            let ports = if bar.space == Space::Io { " ports" } else { "" };
            size_text(bar.size) + ports
        });
        words.push(format!("BARs {}", sizes.collect::<Vec<_>>().join(", ")));
    }
    if let Some(size) = rom {
        words.push(format!("ROM {}", size_text(*size)));
    }
    if let Some(node) = numa_node {
        words.push(format!("NUMA node {node}"));
    }
    if let Some(vfs) = virtual_functions {
        words.push(format!(
            "{} of {} virtual functions",
            vfs.enabled, vfs.total
        ));
    }
    if let Some(physical) = physical_function {
        words.push(format!("virtual function of {physical}"));
    }
    words
}
