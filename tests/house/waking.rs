//! Attributes of sysfs that wake a device, wait for its reset or for its lock are read and written
//! with a time limit only. The kernel's functions are in drivers/pci/pci-sysfs.c and iov.c.

use std::fs;

use crate::metadata::root;
use crate::names::Names;

/// The names that stand in the program as strings of their own, and where they may be.
const LIMITED: &[(&str, &str, &str)] = &[
    ("\"config\"", "src/host/details.rs", "host::limited"),
    // A guest's own device, which nobody else uses.
    (
        "\"config\"",
        "src/bench/guest/edu.rs",
        "/init, which waits for nothing else",
    ),
    ("\"config\"", "src/host/facts.rs", "host::limited"),
    ("\"config\"", "src/explain/source.rs", "host::limited"),
    // An attribute of configfs; the whole search has a time limit.
    ("\"enable\"", "src/host/in_use/exports.rs", "host::limited"),
    (
        "\"config\"",
        "src/vmm/vfio/hardware_config.rs",
        "the opener",
    ),
    (
        "\"config\"",
        "src/vmm/config/port.rs",
        "the caller's reader: the opener, or host::limited",
    ),
    (
        "\"current_link_speed\"",
        "src/vmm/hostinfo/express.rs",
        "the caller's reader: the opener, or host::limited",
    ),
    (
        "\"current_link_width\"",
        "src/vmm/hostinfo/express.rs",
        "the caller's reader: the opener, or host::limited",
    ),
    (
        "\"max_link_speed\"",
        "src/vmm/hostinfo/express.rs",
        "the caller's reader: the opener, or host::limited",
    ),
    (
        "\"max_link_width\"",
        "src/vmm/hostinfo/express.rs",
        "the caller's reader: the opener, or host::limited",
    ),
    (
        "\"current_link_speed\"",
        "src/bench/context/link.rs",
        "host::limited",
    ),
    (
        "\"current_link_width\"",
        "src/bench/context/link.rs",
        "host::limited",
    ),
    (
        "\"max_link_speed\"",
        "src/bench/context/link.rs",
        "host::limited",
    ),
    (
        "\"max_link_width\"",
        "src/bench/context/link.rs",
        "host::limited",
    ),
    (
        "\"current_link_speed\"",
        "src/vmm/broker/files.rs",
        "a name; the opener's process reads the file",
    ),
    (
        "\"current_link_width\"",
        "src/vmm/broker/files.rs",
        "a name; the opener's process reads the file",
    ),
    (
        "\"max_link_speed\"",
        "src/vmm/broker/files.rs",
        "a name; the opener's process reads the file",
    ),
    (
        "\"max_link_width\"",
        "src/vmm/broker/files.rs",
        "a name; the opener's process reads the file",
    ),
    (
        "resource{bar}_resize",
        "src/vmm/hostinfo/resizable.rs",
        "the caller's reader: the opener, or host::limited",
    ),
    (
        "\"reset\"",
        "src/bench/work/reset.rs",
        "a write by a thread with a limit",
    ),
    (
        "\"power/control\"",
        "src/bench/work/reset.rs",
        "a write by a thread with a limit",
    ),
    ("\"sriov_numvfs\"", "src/host/details.rs", "host::limited"),
    (
        "\"sriov_numvfs\"",
        "src/host/bind/facts.rs",
        "host::limited",
    ),
    (
        "\"sriov_numvfs\"",
        "src/host/bind/apply.rs",
        "a write by bind::call, host::limited",
    ),
    (
        "\"driver_override\"",
        "src/host/bind/facts.rs",
        "host::limited",
    ),
    (
        "\"driver_override\"",
        "src/host/bind/apply.rs",
        "a write by bind::call",
    ),
    (
        "\"sriov_drivers_autoprobe\"",
        "src/host/bind/apply.rs",
        "a write by bind::call",
    ),
    (
        "\"sriov_drivers_autoprobe\"",
        "src/host/bind/facts.rs",
        "read without the lock (sriov_drivers_autoprobe_show)",
    ),
];

/// What else the kernel does not answer from its own memory. Nothing reads or writes these.
const NEVER: &[&str] = &[
    "\"vpd\"",
    "\"rom\"",
    "\"remove\"",
    "\"rescan\"",
    "\"enable\"",
    "\"label\"",
    "\"acpi_index\"",
    "\"d3cold_allowed\"",
];

/// The lines of a file before its tests, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let program = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    program
        .lines()
        .filter(|line| !line.trim().starts_with("//"))
}

/// Calls of the kernel that wait for a device's lock, and who may make them.
const CALLS: &[(&str, &[&str])] = &[
    ("uapi::bind_takes_token(", &["src/vmm/vfio/kernel_calls.rs"]),
    ("uapi::bind(", &["src/vmm/vfio/kernel_calls.rs"]),
    ("uapi::attach(", &["src/vmm/vfio/kernel_calls.rs"]),
    ("uapi::detach(", &["src/vmm/vfio/kernel_calls.rs"]),
    ("uapi::reset(", &["src/vmm/vfio/kernel_calls.rs"]),
    ("uapi::hot_reset(", &["src/vmm/vfio/kernel_calls.rs"]),
    ("uapi::device_of_group(", &["src/vmm/vfio/kernel_calls.rs"]),
];

/// A reader without a limit, where a function asks for one with.
const READERS: &[&str] = &[
    "|path| fs::read(path))",
    "|path: &Path| fs::read(path);",
    "&fs::read)",
];

fn program_files(names: &Names) -> impl Iterator<Item = &String> {
    names.paths.iter().filter(|path| {
        let program = path.starts_with("src/") && path.ends_with(".rs");
        let test = ["tests", "/fake", "/tree.rs"]
            .iter()
            .any(|part| path.contains(part));
        program && !test
    })
}

#[test]
fn no_call_that_may_sleep_is_made_without_a_limit() {
    let names = Names::read();
    let (mut bad, mut seen) = (Vec::new(), vec![false; CALLS.len()]);
    for path in program_files(&names) {
        let text = fs::read_to_string(root().join(path)).expect(path);
        for line in code(&text) {
            for (index, (call, may)) in CALLS.iter().enumerate() {
                let here = line.contains(call);
                seen[index] |= here;
                if here && !may.contains(&path.as_str()) {
                    bad.push(format!("{path}: {}", line.trim()));
                }
            }
            if READERS.iter().any(|reader| line.contains(reader)) {
                bad.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    assert!(bad.is_empty(), "without a time limit:\n{}", bad.join("\n"));
    assert!(
        seen.iter().all(|seen| *seen),
        "listed, but not there: {CALLS:#?}"
    );
}

#[test]
fn no_attribute_that_may_sleep_is_used_without_a_limit() {
    let names = Names::read();
    let files = program_files(&names);
    let mut seen = vec![false; LIMITED.len()];
    let mut bad = Vec::new();
    for path in files {
        let text = fs::read_to_string(root().join(path)).expect(path);
        for line in code(&text) {
            // A path component of sysfs is joined; the same words name options and checks.
            let joins = line.contains("join(")
                || line.contains("locked(")
                || line.contains("text(")
                || line.contains("device(bdf")
                || line.contains("attribute(")
                // A speed or a width is only ever that of a link.
                || line.contains("_link_");
            for (index, (name, file, _)) in LIMITED.iter().enumerate() {
                seen[index] |= line.contains(name) && path == file;
            }
            let listed = |name: &str| {
                LIMITED
                    .iter()
                    .any(|(n, file, _)| *n == name && path == file)
            };
            let limited = LIMITED.iter().map(|(name, ..)| *name);
            let found = limited.chain(NEVER.iter().copied());
            bad.extend(
                found
                    .filter(|name| line.contains(name) && joins && !listed(name))
                    .map(|_| format!("{path}: {}", line.trim())),
            );
        }
    }
    bad.dedup();
    // The existence of a file is no read.
    bad.retain(|line| !line.contains(".exists()"));
    assert!(bad.is_empty(), "without a time limit:\n{}", bad.join("\n"));
    let unused = LIMITED.iter().zip(seen).filter(|(_, seen)| !seen);
    let unused: Vec<_> = unused.map(|(entry, _)| entry).collect();
    assert!(unused.is_empty(), "listed, but not there: {unused:#?}");
}
