//! Guests below the tracer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::run::{guest, summary};
use crate::common::asm::Width;
use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::kernel;

/// An address of no device, and mini-vmm's ECAM.
const NOWHERE: u32 = 0xc000_0000;
const ECAM: u32 = 0xe000_0000;

/// Counts by space, address and direction, of a report or a trace.
fn registers(report: &Value) -> BTreeMap<(String, String, bool), u64> {
    let registers = report["exits"]["registers"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let counts = registers.iter().map(|r| {
        let write = r["write"].as_bool().unwrap();
        let key = (text(&r["space"]), text(&r["address"]), write);
        (key, r["count"].as_u64().unwrap())
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Counts by reason, without zeros.
fn reasons(report: &Value) -> BTreeMap<String, u64> {
    let reasons = report["exits"]["by_reason"].as_object().unwrap();
    let counts = reasons
        .iter()
        .map(|(name, n)| (name.clone(), n.as_u64().unwrap()));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Runs a guest, and compares what the tracer has seen with what mini-vmm has counted.
fn counts_are_equal(guest: TempFile, arguments: &[&str], status: i32, cpus: u64) -> Vec<Value> {
    let (lines, stats) = self::guest(guest, arguments, status);
    let traced = summary(&lines);
    assert_eq!(reasons(traced), reasons(&stats));
    assert_eq!(registers(traced), registers(&stats));
    let (seen, counted) = (&traced["exits"], &stats["exits"]);
    assert_eq!(seen["total"], counted["total"]);
    assert_eq!(seen["coalesced_writes"], counted["coalesced_writes"]);
    assert!(seen["total"].as_u64().unwrap() > 0);
    // The one that ends each vCPU's loop, for each boot.
    let immediate = seen["immediate"].as_u64().unwrap();
    assert!(immediate >= cpus, "{immediate} for {cpus} vCPUs");
    lines
}

#[test]
fn exits_are_those_that_stats_counts() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(5, |g| {
            g.outb(0x3ff, 1);
        });
        g.repeat(7, |g| {
            g.load32(NOWHERE);
        });
        g.repeat(3, |g| {
            g.store32(NOWHERE + 4, 1);
        });
        g.print("through the ring, and past its end ".repeat(9).as_str());
        g.input(Width::Byte, 0x3fd);
        for address in [0x8000_0008, 0x8000_f800] {
            g.out(Width::Dword, 0xcf8, address)
                .input(Width::Dword, 0xcfc);
        }
        g.load32(ECAM + 8).power_off();
    });
    counts_are_equal(guest, &[], 0, 1);
}

#[test]
fn exits_are_counted_through_reboots_and_on_all_vcpus() {
    if !kvm() {
        return;
    }
    // The first boot resets; the scratch register of the serial port tells the second one.
    let guest = kernel(|g| {
        let again = g.label();
        g.load32(NOWHERE);
        g.input(Width::Byte, 0x3ff).cmp_eax(0);
        g.jne(again).outb(0x3ff, 1).reset();
        g.bind(again).power_off();
    });
    counts_are_equal(guest, &["--cpus", "4", "--no-reboot"], 0, 4);
    let guest = kernel(|g| {
        g.load32(NOWHERE).triple_fault();
    });
    let lines = counts_are_equal(guest, &["--no-reboot"], 3, 1);
    let shutdown = |line: &Value| line["reason"] == "shutdown";
    let found: Vec<_> = lines.iter().filter(|line| shutdown(line)).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["kvm_reason"], "KVM_EXIT_SHUTDOWN");
}

#[test]
fn accesses_have_names_and_answers() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.out(Width::Dword, 0xcf8, 0x8000_0000)
            .input(Width::Dword, 0xcfc);
        g.out(Width::Dword, 0xcf8, 0x8000_f800)
            .input(Width::Dword, 0xcfc);
        g.load32(ECAM + 0x2c).load32(ECAM + 0xc);
        g.load32(ECAM + 0x2c).load32(NOWHERE);
        g.print("x").input(Width::Byte, 0x3fd);
        g.power_off();
    });
    let (lines, _) = guest_lines(guest);
    let accesses: Vec<_> = lines
        .iter()
        .filter(|line| {
            ["exit", "coalesced"]
                .map(Value::from)
                .contains(&line["type"])
        })
        .filter(|line| line["space"].is_string())
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_string();
            let parts = ["type", "function", "register", "value", "note"];
            parts.map(text).join(" | ")
        })
        .collect();
    let expected = [
        "coalesced | - | PCI CONFIG_ADDRESS | 0x80000000 | selects 00:00.0 vendor ID",
        "exit | 00:00.0 | vendor ID | 0x81b36 | -",
        "coalesced | - | PCI CONFIG_ADDRESS | 0x8000f800 | selects 00:1f.0 vendor ID",
        "exit | 00:1f.0 | vendor ID | 0xffffffff | no function",
        // A bridge has other registers there.
        "exit | 00:00.0 | header +0x2c | 0x0 | -",
        "exit | 00:00.0 | cache line size | 0x0 | -",
        "exit | 00:00.0 | subsystem vendor ID | 0x0 | -",
        "exit | - | - | 0xffffffff | -",
        "coalesced | - | COM1 transmitter holding | 0x78 | 'x'",
        "exit | - | COM1 line status | 0x60 | -",
    ];
    assert_eq!(accesses[..expected.len()], expected);
}

fn guest_lines(kernel: TempFile) -> (Vec<Value>, Value) {
    guest(kernel, &[], 0)
}

#[test]
fn descriptors_are_named_by_what_they_are() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.load32(NOWHERE).power_off();
    });
    let (lines, _) = guest_lines(guest);
    let made = |name: &str| lines.iter().any(|line| line["makes"] == name);
    for name in ["kvm", "vm", "vcpu 0"] {
        assert!(made(name), "nothing makes {name}");
    }
    let files: Vec<_> = lines
        .iter()
        .filter_map(|line| line["file"].as_str())
        .collect();
    assert!(files.iter().all(|file| !file.contains('?')), "{files:?}");
    // No two eventfds have one name.
    let eventfds = lines.iter().filter(|line| line["call"] == "eventfd2");
    let names: Vec<_> = eventfds
        .map(|line| line["makes"].as_str().unwrap())
        .collect();
    let mut different = names.clone();
    different.sort_unstable();
    different.dedup();
    assert!(names.len() > 2);
    assert_eq!(names.len(), different.len(), "{names:?}");
}
