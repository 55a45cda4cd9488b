//! Formats other than JSON lines, filters, and another VMM.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::run::{lines, summary, trace};
use crate::common::elf::TempFile;
use crate::process::{PROGRAM, kernel};
use crate::{kvm, skipped};

const NOWHERE: u32 = 0xc000_0000;

/// Traces a guest that loads three times and prints two characters; returns standard error.
fn guest(options: &[&str]) -> String {
    let guest = kernel(|g| {
        g.repeat(3, |g| {
            g.load32(NOWHERE);
        });
        g.print("ab").power_off();
    });
    let path = guest.path().display().to_string();
    let command = [PROGRAM, "--kernel", &path, "--memory", "64M"];
    let output = trace(options, &command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[test]
fn text_is_for_people_and_filters_choose() {
    if !kvm() {
        return;
    }
    let all = guest(&["--why"]);
    for part in [
        " kvm          KVM_CREATE_VM(",
        " vm           KVM_CREATE_VCPU(",
        "# ",
        " load c0000000.4 → ffffffff",
        " coalesced out 3f8.1  COM1 transmitter holding ← 61 ('a')",
        "        3  mmio_read\n",
        "        2  write COM1 transmitter holding\n",
    ] {
        assert!(all.contains(part), "{part:?} is not in {all}");
    }
    // Each call and each exit says what it is for.
    let lines = all.lines().take_while(|line| !line.is_empty());
    let calls =
        lines.filter(|line| !line.contains("  executes ") && !line.contains("  ends with "));
    let without: Vec<_> = calls.filter(|line| !line.contains("  # ")).collect();
    assert_eq!(without, Vec::<&str>::new());
    let count = |text: &str, part: &str| text.matches(part).count();
    let some = guest(&["--only", "exit", "--address", "0xc0000000"]);
    assert_eq!(count(&some, "load c0000000.4"), 3, "{some}");
    assert_eq!(count(&some, "KVM_CREATE_VM("), 0, "{some}");
    assert_eq!(count(&some, "coalesced out"), 0, "{some}");
    // The counts are of all.
    assert!(some.contains("KVM_CREATE_VM\n"), "{some}");
    // An address in the middle of what is accessed.
    let some = guest(&["--only", "exit", "--address", "0xc0000002"]);
    assert_eq!(count(&some, "load c0000000.4"), 3, "{some}");
    let some = guest(&["--descriptor", "vcpu 0", "--only", "vcpu"]);
    assert!(some.contains("KVM_SET_CPUID2("), "{some}");
    assert_eq!(count(&some, "KVM_CREATE_VM("), 0, "{some}");
    let counts = guest(&["-c"]);
    assert!(counts.starts_with("\n    calls"), "{counts}");
}

#[test]
fn the_perfetto_file_has_a_slice_for_each_exit() {
    if !kvm() {
        return;
    }
    let (out, perfetto) = (TempFile::new(b""), TempFile::new(b""));
    let paths = [&out, &perfetto].map(|file| file.path().display().to_string());
    guest(&["--json", "-o", &paths[0], "--perfetto", &paths[1]]);
    let lines = lines(out.path());
    let exits = &summary(&lines)["exits"];
    let events: Value = serde_json::from_slice(&fs::read(perfetto.path()).unwrap()).unwrap();
    let events = events.as_array().unwrap();
    let track = events
        .iter()
        .find(|event| event["args"]["name"] == "vcpu 0");
    let track = &track.expect("a track of the vCPU")["tid"];
    let mut slices: BTreeMap<i64, Vec<(f64, f64)>> = BTreeMap::new();
    for slice in events.iter().filter(|event| event["ph"] == "X") {
        let start = slice["ts"].as_f64().unwrap();
        let end = start + slice["dur"].as_f64().unwrap();
        let track = slice["tid"].as_i64().unwrap();
        slices.entry(track).or_default().push((start, end));
    }
    let loads = events.iter().filter(|event| {
        let name = event["name"].as_str().unwrap_or_default();
        event["tid"] == *track && name.starts_with("load c0000000.4")
    });
    assert_eq!(loads.count(), 3);
    let own = &slices[&track.as_i64().unwrap()];
    let returns = ["total", "immediate"].map(|key| exits[key].as_u64().unwrap());
    assert!(
        own.len() as u64 >= returns.iter().sum(),
        "{} slices, {exits}",
        own.len()
    );
    // A rounding of 1 ns is no overlap.
    const ROUNDING: f64 = 0.001;
    for slices in slices.values() {
        for pair in slices
            .iter()
            .flat_map(|a| slices.iter().map(move |b| (a, b)))
        {
            let ((start, end), (from, to)) = pair;
            let overlap = start < from && from + ROUNDING < *end && *end + ROUNDING < *to;
            assert!(!overlap, "{pair:?}");
        }
    }
}

/// Code at the reset vector: reads the host bridge's ID, and ends QEMU with status 3.
fn firmware() -> Vec<u8> {
    let mut image = vec![0xf4; 0x1_0000];
    let code = [
        0x66, 0xb8, 0, 0, 0, 0x80, // mov eax, 0x80000000
        0xba, 0xf8, 0x0c, 0x66, 0xef, // mov dx, 0xcf8; out dx, eax
        0xba, 0xfc, 0x0c, 0x66, 0xed, // mov dx, 0xcfc; in eax, dx
        0xb0, 0x01, 0xba, 0xf4, 0x00, 0xee, // mov al, 1; mov dx, 0xf4; out dx, al
    ];
    image[..code.len()].copy_from_slice(&code);
    // ljmp 0xf000:0
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    image
}

#[test]
fn qemu_is_traced_too() {
    if !kvm() {
        return;
    }
    let found = Command::new("qemu-system-x86_64").arg("--version").output();
    if found.is_err() {
        return skipped("there is no qemu-system-x86_64");
    }
    let (bios, out) = (TempFile::new(&firmware()), TempFile::new(b""));
    let [bios, path] = [&bios, &out].map(|file| file.path().display().to_string());
    let qemu = [
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-nodefaults",
        "-display",
        "none",
    ];
    let machine = ["-bios", &bios, "-device", "isa-debug-exit,iobase=0xf4"];
    let command = [&["timeout", "60"][..], &qemu, &machine].concat();
    let output = trace(&["--json", "-o", &path], &command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    let lines = lines(out.path());
    let named = |key: &str, value: &str| lines.iter().filter(|l| l[key] == value).count();
    assert_eq!(summary(&lines)["unknown_calls"], 0);
    assert!(named("file", "vm") > 10 && named("file", "vcpu 0") > 10);
    let id = lines
        .iter()
        .find(|line| line["register"] == "vendor ID")
        .unwrap();
    assert_eq!(id["function"], "00:00.0");
    assert_eq!(id["value"], "0x12378086");
}
