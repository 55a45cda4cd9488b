//! Input that would be cut, rounded or ignored is an error instead.

use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{PROGRAM, kernel, refused};

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = assert_cmd::Command::new(PROGRAM)
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[test]
fn sizes_are_not_rounded() {
    for size in ["65537K", "65539k"] {
        let message = format!("{size} of memory is not a whole number of 4 KiB pages");
        refused(
            &["--kernel", "x", "--memory", size],
            &message,
            "a multiple of 4K",
        );
    }
    for size in [
        "+512M", " 512M", "512M ", "512.5M", "5_12M", "0x200M", "512MM",
    ] {
        let message = format!("`{size}` is not a size of memory");
        let arguments = ["--kernel", "x", "--memory", size];
        refused(&arguments, &message, "--memory 512M");
    }
}

#[test]
fn numbers_are_digits() {
    for arguments in [
        &["--kernel", "x", "--cpus", "+2"][..],
        &["--kernel", "x", "--cpus", " 2"],
        &["--kernel", "x", "--cpus", "2.0"],
        &["--kernel", "x", "--cpus", "0x2"],
        &["host", "bind", "01:00.0", "--vfs", "+2"],
        &["host", "bind", "01:00.0", "--vfs", "2x"],
        &["host", "bind", "01:00.0", "--vfs", "65536"],
    ] {
        let (status, said) = run(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {said}");
        assert!(said.contains("is not a number from 1 to"), "{said}");
    }
    for (address, message) in [
        ("+1:00.0", "`+1:00.0` is not the address"),
        ("01:00.0 ", "`01:00.0 ` is not the address"),
        ("001:00.0", "`001:00.0` is not the address"),
        ("01:00.0.1", "`01:00.0.1` is not the address"),
        (
            "{83b8f4f2-509f-382f-3c1e-e6bfe0fa1001}",
            "is not the address",
        ),
    ] {
        refused(&["explain", "--vfio", address], message, "host list");
    }
    for (option, message) in [
        ("slot=+5", "`+5` is not a value for `slot`"),
        ("slot=005", "`005` is not a value for `slot`"),
        ("slot=5.", "`5.` is not a value for `slot`"),
        ("slot=5.0x", "`5.0x` is not a value for `slot`"),
        (
            "vf-token={bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3}",
            "for `vf-token`",
        ),
        (
            "vf-token=bd8d9d2b5a5f4f5aa211f591514ba1f3",
            "for `vf-token`",
        ),
        ("romfile=a,b", "`b` is not an option"),
    ] {
        let device = format!("01:00.0,{option}");
        refused(&["explain", "--vfio", &device], message, "for example");
    }
}

/// The last of two values would win.
#[test]
fn nothing_is_given_twice() {
    for arguments in [
        &["--kernel", "x", "--memory", "1G", "--memory", "2G"][..],
        &["--kernel", "x", "--cpus", "1", "--cpus", "2"],
        &["--kernel", "x", "--cmdline", "a", "--cmdline", "b"],
        &["--kernel", "x", "--initrd", "a", "--initramfs", "b"],
        &["--kernel", "x", "--iommu", "auto", "--iommu", "container"],
        &["--kernel", "x", "--stats=a", "--stats=b"],
        &["--kernel", "x", "--stats="],
        &["--kernel", "x", "--initrd", ""],
        &["host", "bind", "01:00.0", "--vfs", "1", "--vfs", "2"],
        &["host", "bind", "01:00.0", "--user", "a", "--user", "b"],
        &["host", "check", "--memory", "1G", "--memory", "2G"],
    ] {
        let (status, said) = run(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {said}");
    }
}

/// A message is one line, and no command for the terminal, whatever it quotes.
#[test]
fn control_characters_are_shown() {
    let (status, said) = run(&["explain", "--vfio", "a\u{1b}[31m\nb"]);
    assert_eq!(status, Some(1));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].contains(r"`a\u{1b}[31m\nb` is not the address"),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'));
    let (_, said) = run(&["--kernel", "/nowhere/\u{7}kernel"]);
    assert!(said.contains(r"/nowhere/\u{7}kernel"), "{said}");
}

/// Linux cuts a longer command line, and an ELF does not tell its limit.
#[test]
fn a_command_line_is_not_cut() {
    if !kvm() {
        return;
    }
    let guest: TempFile = kernel(|g| {
        g.power_off();
    });
    let path = guest.path().to_str().unwrap();
    // `console=ttyS0 ` comes before.
    let fits = "x".repeat(2047 - 14);
    let arguments = ["--kernel", path, "--memory", "64M", "--cmdline"];
    let (status, said) = run(&[&arguments[..], &[&fits]].concat());
    assert_eq!(status, Some(0), "{said}");
    let long = "x".repeat(2048 - 14);
    let arguments = [&arguments[..], &[&long]].concat();
    refused(&arguments, "has 2048 bytes", "shorten --cmdline by 1 bytes");
}
