//! Attributes of sysfs that wake a device, wait for its reset or for its lock are read and written
//! with a time limit only. The kernel's functions are in drivers/pci/pci-sysfs.c and iov.c.

use std::fs;

use crate::metadata::root;
use crate::names::Names;

/// The names that stand in the program as strings of their own, and where they may be.
const LIMITED: &[(&str, &str, &str)] = &[
    ("\"config\"", "src/host/details.rs", "host::limited"),
    ("\"config\"", "src/host/facts.rs", "host::limited"),
    ("\"config\"", "src/explain/source.rs", "host::limited"),
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
        "resource{bar}_resize",
        "src/vmm/hostinfo/resizable.rs",
        "the caller's reader: the opener, or host::limited",
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
    "\"reset\"",
    "\"remove\"",
    "\"rescan\"",
    "\"enable\"",
    "\"label\"",
    "\"acpi_index\"",
    "\"power/control\"",
    "\"d3cold_allowed\"",
];

/// The lines of a file before its tests, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let program = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    program
        .lines()
        .filter(|line| !line.trim().starts_with("//"))
}

#[test]
fn no_attribute_that_may_sleep_is_used_without_a_limit() {
    let names = Names::read();
    let files = names.paths.iter().filter(|path| {
        let program = path.starts_with("src/") && path.ends_with(".rs");
        let test = ["tests", "/fake", "/tree.rs"]
            .iter()
            .any(|part| path.contains(part));
        program && !test
    });
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
                || line.contains("attribute(");
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
