//! `--sandbox`: every thread of a running guest is confined, from before its first byte; what a run
//! does in its life goes on, and `log` names no call.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use vmm::sandbox::helper::KEPT;
use vmm::sandbox::ioctls::IOCTLS;
use vmm_sys_util::tempdir::TempDir;

use crate::common::asm::Asm;
use crate::control::Guest;
use crate::kvm;
use crate::process::{PROGRAM, Running, command, kernel};

/// A guest that says at each boot that it boots.
fn boot(g: &mut Asm) {
    g.print("boot\n").hang();
}

/// The fields of each thread's status that the sandbox sets, by the thread's name.
fn threads(pid: u32) -> BTreeMap<String, [String; 3]> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let facts = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        // A thread may have ended.
        let status = fs::read_to_string(task.join("status")).ok()?;
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_string()
        };
        let fields = ["Seccomp:", "NoNewPrivs:", "CapEff:"].map(field);
        Some((name.trim().into(), fields))
    });
    facts.collect()
}

/// All threads are confined, and these are among them. CAP_IPC_LOCK stays where the limit on locked
/// memory cannot be raised (0x4000).
#[track_caller]
fn all_confined(pid: u32, names: &[&str]) {
    let threads = threads(pid);
    for name in names {
        assert!(threads.contains_key(*name), "{name}: {threads:?}");
    }
    for (name, [seccomp, no_new_privs, capabilities]) in &threads {
        assert_eq!([seccomp, no_new_privs], ["2", "1"], "{name}");
        let kept = ["0000000000000000", "0000000000004000"].contains(&capabilities.as_str());
        assert!(kept, "{name}: {capabilities}");
    }
}

/// The processes that open and bind devices, children of the run, are confined too: no_new_privs, a
/// filter, and no capability that their table lacks.
#[track_caller]
fn helpers_confined(run: u32) {
    let kept = KEPT.iter();
    let kept = kept.fold(0, |set, (number, _)| set | 1_u64 << number);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        // A process may have ended.
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim()
        };
        if field("PPid:") == run.to_string() {
            let name = field("Name:");
            assert_eq!(
                [field("Seccomp:"), field("NoNewPrivs:")],
                ["2", "1"],
                "{name}"
            );
            let set = u64::from_str_radix(field("CapEff:"), 16).unwrap();
            assert_eq!(set & !kept, 0, "{name}: {set:#x}");
            found.push(name.to_string());
        }
    }
    found.sort();
    assert_eq!(found, ["vmm-binder", "vmm-guardian"]);
}

/// Everything that a run without devices does: two vCPUs, the console, requests, a pause, a reset,
/// a report, the end by a signal.
fn lives(mode: &str) {
    let dir = TempDir::new().unwrap();
    let stats = dir.as_path().join("stats.json");
    let stats_flag = format!("--stats={}", stats.display());
    let arguments = [
        "--cpus",
        "2",
        "--sandbox",
        mode,
        "--ports",
        "1",
        &stats_flag,
    ];
    let mut guest = Guest::start(boot, &arguments);
    guest.run.stdout.wait_for("boot\n");
    let names = [
        "mini-vmm",
        "vcpu 0",
        "vcpu 1",
        "coalesced",
        "console output",
        "api",
        "api queries",
        "api changes",
    ];
    let check = || {
        if mode == "on" {
            all_confined(guest.run.pid(), &names);
            helpers_confined(guest.run.pid());
        }
    };
    check();
    assert_eq!(guest.info()["state"], "Running");
    guest.ctl(&["counters"]);
    guest.ctl(&["pci"]);
    guest.ctl(&["pause"]);
    guest.ctl(&["resume"]);
    guest.ctl(&["reboot"]);
    guest.run.stdout.wait_for("boot\nboot\n");
    check();
    // There is no such device: sysfs is looked at, and the run goes on.
    let refused = guest.try_ctl(&["add", "0000:7f:1f.7"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("0000:7f:1f.7"), "{said}");
    guest.run.signal(libc::SIGUSR1);
    guest.run.stderr.wait_for("statistics are in");
    check();
    guest.run.signal(libc::SIGTERM);
    assert_eq!(guest.run.status(), Some(0), "{}", guest.run.stderr.text());
    let said = guest.run.stderr.text();
    // Neither a refusal, nor a call that `log` names.
    assert!(
        !said.contains("the sandbox refuses") && !said.contains("sandbox: "),
        "{said}"
    );
    assert!(!guest.socket.path().exists());
    assert!(fs::read_to_string(&stats).unwrap().contains("\"exits\""));
}

#[test]
fn all_threads_are_confined_and_a_run_lives_as_without() {
    if kvm() {
        lives("on");
    }
}

/// The lists have every call of the same run.
#[test]
fn log_names_no_call() {
    if kvm() {
        lives("log");
    }
}

/// The process that opens devices sees the request of a client, whatever its form, before the run
/// reads it. A request that it has not seen adds nothing.
#[test]
fn requests_of_clients_are_seen_by_the_process_that_opens_devices() {
    if !kvm() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let socket = dir.as_path().join("socket");
    let path = socket.to_str().unwrap();
    let flags = [
        "-vv",
        "--sandbox",
        "on",
        "--ports",
        "1",
        "--api-socket",
        path,
    ];
    let mut run = Running::start(kernel(boot), &flags);
    run.stdout.wait_for("boot\n");
    // A request in one part, and one whose parts arrive one by one.
    for parts in [1, 3] {
        let mut client = UnixStream::connect(&socket).unwrap();
        let body = r#"{"path": "0000:7f:1f.6", "managed": true}"#;
        let all = [
            "PUT /api/v1/vm.add-device HTTP/1.1\r\nConnection: close\r\n",
            &format!("Content-Length: {}\r\n\r\n", body.len()),
            body,
        ];
        for part in all.chunks(all.len() / parts) {
            client.write_all(part.concat().as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("0000:7f:1f.6"), "{answer}");
    }
    run.signal(libc::SIGTERM);
    assert_eq!(run.status(), Some(0));
    let said = run.stderr.text();
    let asked = said.matches("a look at a request by another process");
    assert_eq!(asked.count(), 2, "{said}");
    assert!(!said.contains("the request is not seen"), "{said}");
}

/// A guest's own resets start its vCPUs anew each time.
#[test]
fn a_confined_guest_resets_itself() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("boot\n").reset();
    });
    let mut run = Running::start(guest, &["--sandbox", "on", "--cpus", "2"]);
    run.stdout.wait_for(&"boot\n".repeat(20));
    run.signal(libc::SIGTERM);
    run.ends_well();
}

/// By flags and by a file, which may also turn the sandbox off.
#[test]
fn a_run_is_confined_by_default() {
    if !kvm() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let file = dir.as_path().join("run.toml");
    fs::write(&file, "memory = \"16M\"\n").unwrap();
    let file = file.to_str().unwrap();
    for flags in [&[][..], &["--config", file]] {
        let mut run = Running::start(kernel(boot), flags);
        run.stdout.wait_for("boot\n");
        all_confined(run.pid(), &["mini-vmm", "vcpu 0"]);
        run.signal(libc::SIGTERM);
        run.ends_well();
    }
    fs::write(file, "sandbox = \"off\"\n").unwrap();
    nothing_is_confined(&["--config", file]);
}

#[test]
fn with_off_nothing_is_confined() {
    if kvm() {
        nothing_is_confined(&["--sandbox", "off"]);
    }
}

#[track_caller]
fn nothing_is_confined(flags: &[&str]) {
    let mut run = Running::start(kernel(boot), flags);
    run.stdout.wait_for("boot\n");
    let own = threads(std::process::id());
    let own = own.values().next().unwrap();
    for (name, fields) in threads(run.pid()) {
        assert_eq!(&fields, own, "{name}");
    }
    run.signal(libc::SIGTERM);
    run.ends_well();
}

/// The tracer sees a confined run as any other.
#[test]
fn a_confined_run_can_be_traced() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("traced").power_off();
    });
    let run = command(&guest, &["--sandbox", "on"]);
    let mut traced = std::process::Command::new(PROGRAM);
    traced.args(["trace", "--"]).arg(run.get_program());
    traced.args(run.get_args()).stdin(Stdio::null());
    let output = traced.output().unwrap();
    let (shown, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        format!("{shown}{said}").contains("KVM_RUN"),
        "{shown}{said}"
    );
}

/// The numbers of the table are those of the kernel's headers. The terminal's are not among those.
#[test]
fn ioctls_have_the_numbers_of_the_headers() {
    let headers = include_str!("../../src/trace/decode/table/headers.txt");
    let calls: BTreeMap<&str, u32> = headers
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("call ")?.split(' ');
            let (name, number) = (words.next()?, words.next()?.strip_prefix("0x")?);
            Some((name, u32::from_str_radix(number, 16).ok()?))
        })
        .collect();
    let ours = ["KVM_", "VFIO_", "IOMMU_"];
    let rows = IOCTLS.iter();
    let rows: Vec<_> = rows
        .filter(|row| ours.iter().any(|prefix| row.name.starts_with(prefix)))
        .collect();
    assert!(rows.len() > 50, "{}", rows.len());
    for row in rows {
        assert_eq!(calls.get(row.name), Some(&row.request), "{}", row.name);
    }
}
