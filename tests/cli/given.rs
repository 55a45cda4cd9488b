//! Files that the program's parent has opened: `--kvm fd=N`, `--iommu fd=N`, `--vfio fd=N`.

use std::process::{Command, Output};

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
