//! Files that the program's parent has opened: `--kvm fd=N`, `--iommu fd=N`, `--vfio fd=N`, and the
//! socket of a service manager.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use crate::control::SocketPath;
use crate::process::{PROGRAM, check_refusal, kernel};
use crate::{kvm, skipped};

/// Runs mini-vmm by a shell, which opens files: `7<>/dev/kvm`.
fn with_files(files: &str, arguments: &[&str]) -> Output {
    let script = format!("exec \"$@\" {files}");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", PROGRAM]).args(arguments);
    command.output().unwrap()
}

/// The mount namespace has a /dev/kvm that is no KVM, so only the open file can be it.
#[test]
fn a_guest_runs_by_kvms_file_alone() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("by the file").power_off();
    });
    let run = |options: &str| {
        let script = format!(
            "mount --bind /dev/null /dev/kvm && exec \"$@\" --memory 64M {options} </dev/null"
        );
        let mut command = Command::new("sh");
        command.args(["-c", "exec unshare -m sh -c \"$@\" 7<>/dev/kvm", "sh"]);
        command
            .args([&script, "sh", PROGRAM, "--kernel"])
            .arg(guest.path());
        command.output().unwrap()
    };
    let without = run("");
    let said = String::from_utf8_lossy(&without.stderr);
    if !said.contains("mini-vmm") {
        return skipped(&format!("no mount namespace can be made here: {said}"));
    }
    assert_eq!(without.status.code(), Some(1), "{said}");
    let output = run("--kvm fd=7");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "by the file");
}

/// The hint for a file that is not a device's own.
const NODE: &str = "ls /sys/bus/pci/devices/ADDR/vfio-dev";

/// Files that the shell opens, options of mini-vmm, and parts of the message and of the hint.
const MISTAKES: &[[&str; 4]] = &[
    [
        "",
        "--kvm 7",
        "`7` is not the number of an open file for --kvm",
        "--kvm fd=7",
    ],
    [
        "",
        "--kvm fd=",
        "`` is not the number of an open file",
        "--kvm fd=7",
    ],
    ["", "--kvm fd=+7", "`+7` is not the number", "--kvm fd=7"],
    ["", "--kvm fd=7,x", "`7,x` is not the number", "--kvm fd=7"],
    [
        "",
        "--vfio fd=x",
        "`x` is not the number of an open file for --vfio",
        "--vfio fd=7",
    ],
    [
        "",
        "--iommu fd=N",
        "`N` is not the number of an open file",
        "--iommu fd=7",
    ],
    [
        "",
        "--iommu fd=99999999999",
        "is not the number",
        "--iommu fd=7",
    ],
    [
        "",
        "--kvm fd=2",
        "--kvm fd=2: descriptor 2 is a standard stream",
        "from 3 on",
    ],
    [
        "7<&-",
        "--kvm fd=7",
        "--kvm fd=7: descriptor 7 is not open",
        "7<>NODE",
    ],
    [
        "7<&-",
        "--iommu fd=7",
        "descriptor 7 is not open",
        "7<>NODE",
    ],
    [
        "7<&-",
        "--vfio fd=7,slot=3",
        "descriptor 7 is not open",
        "7<>NODE",
    ],
    [
        "7<>/dev/null",
        "--kvm fd=7",
        "--kvm fd=7: the file is /dev/null, not /dev/kvm",
        "open /dev/kvm, in a shell for example with 7<>/dev/kvm",
    ],
    [
        "7<>/dev/null",
        "--iommu fd=7",
        "--iommu fd=7: the file is /dev/null, not /dev/iommu",
        "7<>/dev/iommu",
    ],
    [
        "7<>/dev/null",
        "--vfio fd=7",
        "--vfio fd=7: the file is /dev/null, not a device's node in /dev/vfio/devices",
        NODE,
    ],
    [
        "7</proc/version",
        "--vfio fd=7",
        "the file is /proc/version, not",
        NODE,
    ],
    [
        "7</proc/version",
        "--iommu fd=7",
        "the file is /proc/version, not",
        "/dev/iommu",
    ],
];

#[test]
fn numbers_without_a_fitting_file() {
    for [files, options, message, hint] in MISTAKES {
        let options: Vec<_> = ["--kernel", "x"]
            .into_iter()
            .chain(options.split(' '))
            .collect();
        check_refusal(&with_files(files, &options), message, hint);
    }
}

#[test]
fn a_file_is_for_one_flag() {
    if !kvm() {
        return;
    }
    let options = ["--kernel", "x", "--kvm", "fd=7", "--iommu", "fd=7"];
    let message = "--iommu fd=7: descriptor 7 is given twice";
    check_refusal(
        &with_files("7<>/dev/kvm", &options),
        message,
        "open a file for each flag",
    );
    // KVM is no iommufd, and the message has no control characters of a name.
    let options = ["--kernel", "x", "--iommu", "fd=7"];
    let message = "the file is /dev/kvm, not /dev/iommu";
    check_refusal(&with_files("7<>/dev/kvm", &options), message, "/dev/iommu");
}

/// As systemd starts a service of a socket unit: the socket listens already, and its file stays.
#[test]
fn a_service_manager_gives_the_socket_for_requests() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("ready").hang();
    });
    let socket = SocketPath::new();
    let listener = UnixListener::bind(socket.path()).unwrap();
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let start = |more: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", PROGRAM, "--memory", "64M", "--kernel"]);
        command.arg(guest.path()).args(more);
        command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let running = start(&[]);
    let ctl = |verb| {
        Command::new(PROGRAM)
            .args(["ctl", socket.text(), verb])
            .output()
            .unwrap()
    };
    let info = ctl("info");
    assert!(info.status.success(), "{info:?}");
    assert!(ctl("shutdown").status.success());
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(socket.path().exists());

    let both = start(&["--api-socket", "/nowhere/else"]).wait_with_output();
    let message = "--api-socket and LISTEN_FDS in the environment both give a socket";
    check_refusal(&both.unwrap(), message, "leave --api-socket out");
}

#[test]
fn a_service_manager_that_gives_something_else() {
    for (count, files, message, hint) in [
        (
            "1",
            "3</dev/null",
            "descriptor 3 is no Unix socket that listens",
            "systemd",
        ),
        (
            "2",
            "3</dev/null 4</dev/null",
            "gives 2 sockets",
            "one ListenStream=",
        ),
        (
            "1",
            "3<&-",
            "promises more: descriptor 3 is not open",
            "unset LISTEN_FDS",
        ),
        (
            "x",
            "3</dev/null",
            "LISTEN_FDS in the environment is `x`",
            "unset LISTEN_FDS",
        ),
    ] {
        let script = format!("LISTEN_FDS={count} LISTEN_PID=$$ exec \"$@\" {files}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", PROGRAM, "--kernel", "x"]);
        check_refusal(&command.output().unwrap(), message, hint);
    }
    // Another process's variables are no matter of ours.
    let script = "LISTEN_FDS=x LISTEN_PID=1 exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", PROGRAM, "--kernel", "/nowhere/x"]);
    check_refusal(&command.output().unwrap(), "/nowhere/x", "");
}

/// systemd's OpenFile= passes files in the same way. Those that a flag names are no sockets.
#[test]
fn files_and_a_socket_may_come_together() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("ready").power_off();
    });
    let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<>/dev/kvm 0</dev/null";
    let mut command = Command::new("sh");
    command.args([
        "-c", script, "sh", PROGRAM, "--memory", "64M", "--kvm", "fd=3",
    ]);
    let output = command.arg("--kernel").arg(guest.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
