//! `--stats`: the table, and the JSON whose form docs/stats.md promises.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::asm::Width;
use crate::common::elf::TempFile;
use crate::common::golden::{self, values_of};
use crate::kvm;
use crate::process::{Running, kernel};

/// An address of no device.
const NOWHERE: u32 = 0xc000_0000;
/// The scratch register of the serial port, whose writes KVM does not coalesce.
const SCRATCH: u16 = 0x3ff;
/// Register 0 of the host bridge.
const ECAM: u32 = 0xe000_0000;

pub fn read(path: &PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Runs a guest with its statistics in a file, to its end.
fn measured(guest: TempFile, arguments: &[&str]) -> Value {
    let file = TempFile::new(b"what was there before");
    let flag = format!("--stats={}", file.path().display());
    let mut run = Running::start(guest, &[&[&*flag], arguments].concat());
    assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
    let told = format!("mini-vmm: statistics are in {}\n", file.path().display());
    assert_eq!(run.stderr.text(), told);
    read(&file.path().into())
}

/// Counts by space, address and direction.
fn registers(report: &Value) -> BTreeMap<(String, String, bool), u64> {
    let registers = report["exits"]["registers"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    registers
        .iter()
        .map(|r| {
            let key = (text(&r["space"]), text(&r["address"]), r["write"].as_bool());
            ((key.0, key.1, key.2.unwrap()), r["count"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn counts_are_what_the_guest_did() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(5, |g| {
            g.outb(SCRATCH, 1);
        });
        g.repeat(7, |g| {
            g.load32(NOWHERE);
        });
        g.repeat(3, |g| {
            g.store32(NOWHERE + 4, 1);
        });
        g.outb(0x80, 1);
        // The host bridge's class, by ports and by ECAM, and a device that is not there.
        for address in [0x8000_0008, 0x8000_f800] {
            g.out(Width::Dword, 0xcf8, address)
                .input(Width::Dword, 0xcfc);
        }
        g.load32(ECAM + 8).power_off();
    });
    let report = measured(guest, &[]);
    let exits = &report["exits"];
    let reasons = &exits["by_reason"];
    assert_eq!(reasons["pio_out"], 5 + 1 + 1);
    // Writes to 0xcf8 are coalesced in KVM's ring.
    assert_eq!(exits["coalesced_writes"], 2);
    assert_eq!(reasons["pio_in"], 2);
    assert_eq!(reasons["mmio_read"], 7 + 1);
    assert_eq!(reasons["mmio_write"], 3);
    let sum: u64 = reasons
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(exits["total"], sum);
    assert_eq!(exits["vcpus"].as_array().unwrap().len(), 1);
    assert_eq!(&exits["vcpus"][0], reasons);
    assert_eq!(exits["other_registers"], 0);
    let key = |space: &str, address: &str, write| (space.to_string(), address.to_string(), write);
    let expected = [
        (key("port", "0x3ff", true), 5),
        (key("port", "0x80", true), 1),
        (key("port", "0x600", true), 1),
        (key("port", "0xcfc", false), 2),
        (key("memory", "0xe0000008", false), 1),
        (key("memory", "0xc0000000", false), 7),
        (key("memory", "0xc0000004", true), 3),
    ];
    assert_eq!(registers(&report), BTreeMap::from(expected));
    // The most frequent first, and named where it has a name.
    let registers = exits["registers"].as_array().unwrap();
    assert_eq!(registers[0]["place"], Value::Null);
    assert_eq!(registers[1]["place"], "serial port");
    assert_eq!(registers[1]["offset"], "0x7");
    let config = json!({ "others": 0, "registers": [
        { "function": "0000:00:00.0", "register": "0x8", "write": false, "count": 2 },
        { "function": "0000:00:1f.0", "register": "0x0", "write": false, "count": 1 },
    ] });
    assert_eq!(report["config_space"], config);
}

#[test]
fn the_start_is_told() {
    if !kvm() {
        return;
    }
    let report = measured(
        kernel(|g| {
            g.power_off();
        }),
        &["--cpus", "2"],
    );
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|p| p["name"].as_str().unwrap()).collect();
    for name in [
        "look_at_files",
        "create_vm",
        "allocate_ram",
        "make_vcpus",
        "load_images",
    ] {
        assert_eq!(
            names.iter().filter(|n| **n == name).count(),
            1,
            "{name}: {names:?}"
        );
    }
    assert_eq!(names.last(), Some(&"first_run"), "{names:?}");
    let number = |value: &Value| value.as_u64().unwrap();
    let mut before = 0;
    for phase in phases {
        assert!(number(&phase["start_us"]) >= before, "{phases:?}");
        assert!(
            number(&phase["start_us"]) <= number(&phase["end_us"]),
            "{phases:?}"
        );
        before = number(&phase["start_us"]);
    }
    let first_exit = number(&report["first_exit_us"]);
    assert!(before <= first_exit && first_exit <= number(&report["uptime_us"]));
    assert!(number(&report["cpu_before_main_us"]) > 0);
    assert!(number(&report["started_monotonic_ns"]) > 0);
    assert_eq!(report["exits"]["vcpus"].as_array().unwrap().len(), 2);
}

#[test]
fn kvm_counts_too() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(100, |g| {
            g.load32(NOWHERE);
        });
        g.power_off();
    });
    let report = measured(guest, &[]);
    let kvm = &report["kvm"];
    if kvm["problem"] != Value::Null {
        let why = kvm["problem"].as_str().unwrap();
        assert!(why.contains("KVM_GET_STATS_FD"), "{why}");
        return crate::skipped(why);
    }
    let vcpu = &kvm["vcpus"][0];
    assert!(vcpu["exits"].as_u64().unwrap() > 100, "{vcpu}");
    assert!(vcpu["mmio_exits"].as_u64().unwrap() >= 100, "{vcpu}");
    assert!(kvm["vm"].as_object().unwrap().len() > 1, "{kvm}");
}

#[test]
fn memory_is_counted_without_the_guests() {
    if !kvm() {
        return;
    }
    // A page each 4 KiB of 16 MiB, from where the guest's own code is not.
    let guest = kernel(|g| {
        for page in 0..32 {
            g.store32(0x200_0000 + page * 0x8_0000, 1);
        }
        g.power_off();
    });
    let memory = measured(guest, &[])["memory"].clone();
    let bytes = |name: &str| memory[name].as_u64().unwrap();
    assert!(bytes("guest_resident_bytes") >= 32 * 4096, "{memory}");
    assert!(bytes("private_bytes") > 64 << 10, "{memory}");
    assert!(
        bytes("private_dirty_bytes") <= bytes("private_bytes"),
        "{memory}"
    );
    // A debug build is large, but nowhere near the guest's 64 MiB.
    assert!(bytes("private_bytes") < 48 << 20, "{memory}");
}

#[test]
fn sigusr1_writes_and_the_guest_goes_on() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(4, |g| {
            g.outb(SCRATCH, 1);
        });
        g.print("ready").wait_key();
        g.repeat(3, |g| {
            g.outb(SCRATCH, 1);
        });
        g.power_off();
    });
    let file = TempFile::new(b"");
    let flag = format!("--stats={}", file.path().display());
    let mut run = Running::start(guest, &[&flag]);
    run.stdout.wait_for("ready");
    run.signal(libc::SIGUSR1);
    run.stderr.wait_for("mini-vmm: statistics are in ");
    run.stderr.wait_for("\nmini-vmm: statistics");
    assert!(run.stderr.text().starts_with("mini-vmm: exits pio="));
    let outs = |report: &Value| registers(report)[&("port".into(), "0x3ff".into(), true)];
    let first = read(&file.path().into());
    assert_eq!(outs(&first), 4);
    std::io::Write::write_all(run.stdin.as_mut().unwrap(), b"k").unwrap();
    assert_eq!(run.status(), Some(0));
    let last = read(&file.path().into());
    assert_eq!(outs(&last), 7);
    assert_eq!(first["started_monotonic_ns"], last["started_monotonic_ns"]);
    assert_eq!(first["phases"], last["phases"]);
}

#[test]
fn the_table_is_on_standard_error() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("hello").load32(NOWHERE);
        g.repeat(5, |g| {
            g.outb(SCRATCH, 1);
        });
        g.power_off();
    });
    let mut run = Running::start(guest, &["--stats"]);
    assert_eq!(run.status(), Some(0));
    run.stderr.wait_for("present");
    let table = run.stderr.text();
    for line in [
        "first_run",
        "exits to mini-vmm: ",
        "1  mmio_read",
        "5  write port 0x3ff (serial port + 0x7)",
        "1  read  memory 0xc0000000",
        "KVM's counters",
        "memory without the guest's RAM",
    ] {
        assert!(table.contains(line), "{line:?} is not in {table}");
    }
    assert_eq!(run.stdout.text(), "hello");
}

#[test]
fn the_form_of_the_json_is_kept() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(5, |g| {
            g.outb(SCRATCH, 1);
        });
        g.load32(ECAM).power_off();
    });
    let mut report = measured(guest, &[]);
    assert_eq!(report["version"], 1);
    // KVM names these counters.
    let kvm = report["kvm"].as_object_mut().unwrap();
    assert_eq!(kvm.keys().collect::<Vec<_>>(), ["problem", "vcpus", "vm"]);
    kvm.clear();
    let phases = values_of(&report["phases"], "name");
    let text = format!("{}phases: {phases}\n", golden::shape(&report));
    golden::check("stats.txt", &text);
}
