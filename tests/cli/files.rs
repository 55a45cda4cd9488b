//! Kernels, initrds and command lines that cannot be used.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::asm::Asm;
use crate::common::elf::{self, TempFile};
use crate::common::kernels::bzimage_of;
use crate::kvm;
use crate::process::{PROGRAM, as_nobody, check_refusal, command, kernel, refused};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A kernel of these bytes is refused.
#[track_caller]
fn bad_kernel(bytes: &[u8], message: &str, hint: &str) {
    let file = TempFile::new(bytes);
    refused(&["--kernel", text(file.path())], message, hint);
}

fn elf_image() -> Vec<u8> {
    let mut guest = Asm::new();
    guest.power_off();
    elf::image(&guest.finish())
}

#[test]
fn no_kernel_there() {
    let hint = "give the path of a kernel";
    refused(
        &["--kernel", "/nowhere/bzImage"],
        "no kernel at /nowhere/bzImage",
        hint,
    );
    // A file where a directory should be.
    let file = TempFile::new(b"x");
    let path = format!("{}/bzImage", text(file.path()));
    refused(&["--kernel", &path], &path, hint);
}

#[test]
fn no_regular_file() {
    refused(&["--kernel", "/"], "is a directory", "name a file in it");
    refused(
        &["--kernel", "/dev/null"],
        "not a regular file",
        "copy it to a file",
    );
}

/// Refused before the program looks for the device, which does not exist either.
#[test]
fn no_rom_in_a_file() {
    let kernel = TempFile::new(&elf_image());
    let empty = TempFile::new(b"");
    let large = TempFile::new(&vec![0; (16 << 20) + 1]);
    for (path, message) in [
        ("/nowhere/rom", "cannot read the expansion ROM /nowhere/rom"),
        ("/", "the expansion ROM / is not a regular file"),
        (text(empty.path()), "is empty"),
        (text(large.path()), "16 MiB"),
    ] {
        let device = format!("00fe:fe:1f.7,romfile={path}");
        let arguments = ["--kernel", text(kernel.path()), "--vfio", &device];
        refused(&arguments, message, "romfile=");
    }
}

#[test]
fn no_kernel_at_all() {
    for bytes in [&b""[..], b"x", b"#!/bin/sh\n", &[0; 4096], b"\x7fEL"] {
        bad_kernel(bytes, "is not a kernel", "find the type of the file: file ");
    }
    refused(
        &["--kernel", PROGRAM],
        "it is a program, not a kernel",
        "file ",
    );
}

#[test]
fn truncated_images() {
    let elf = elf_image();
    for len in [4, 20, 63, 100, elf.len() - 1] {
        bad_kernel(&elf[..len], "is truncated", "copy it again");
    }
    let bz = bzimage_of(64 << 10);
    for len in [0x206, 0x240, 1024, 1 << 14, bz.len() - 1] {
        bad_kernel(&bz[..len], "is truncated", "copy it again");
    }
}

#[test]
fn kernels_of_other_machines() {
    let with = |at: usize, value: u8| {
        let mut image = elf_image();
        image[at] = value;
        image
    };
    bad_kernel(&with(4, 1), "not a 64-bit ELF", "x86-64");
    bad_kernel(&with(5, 2), "big-endian", "x86-64");
    bad_kernel(&with(18, 183), "ELF machine 183", "x86-64");
    bad_kernel(&with(16, 1), "object or core", "x86-64");
    let mut old = bzimage_of(4096);
    old[0x206] = 0x0b;
    bad_kernel(&old, "boot protocol is 2.11", "x86-64");
    let mut narrow = bzimage_of(4096);
    narrow[0x236] = 0;
    bad_kernel(&narrow, "no 64-bit entry", "x86-64");
}

#[test]
fn bad_initrds() {
    let kernel = kernel(|g| {
        g.power_off();
    });
    let kernel = ["--kernel", text(kernel.path())];
    let with = |initrd| [&kernel[..], &["--initrd", initrd]].concat();
    refused(
        &with("/nowhere/initrd"),
        "no initrd at /nowhere/initrd",
        "give the path of an initrd",
    );
    refused(&with("/"), "the initrd / is a directory", "--initrd");
    refused(&with("/dev/zero"), "not a regular file", "--initrd");
    let empty = TempFile::new(b"");
    refused(&with(text(empty.path())), "is empty", "remove --initrd");
    // The other name of the flag.
    let other = [&kernel[..], &["--initramfs", "/nowhere/initrd"]].concat();
    refused(&other, "no initrd at /nowhere/initrd", "--initrd");
}

#[test]
fn unreadable_kernel() {
    let kernel = kernel(|g| {
        g.power_off();
    });
    fs::set_permissions(kernel.path(), Permissions::from_mode(0o0)).unwrap();
    // The superuser can read every file.
    if let Some(output) = as_nobody(&mut command(&kernel, &[])) {
        let hint = format!("chmod a+r {}", text(kernel.path()));
        check_refusal(&output, "Permission denied", &hint);
    }
}

#[test]
fn what_does_not_fit() {
    if !kvm() {
        return;
    }
    let small = kernel(|g| {
        g.power_off();
    });
    let small = ["--memory", "64M", "--kernel", text(small.path())];
    let large = TempFile::new(b"");
    let file = OpenOptions::new().write(true).open(large.path()).unwrap();
    file.set_len(100 << 20).unwrap();
    let initrd = [&small[..], &["--initrd", text(large.path())]].concat();
    refused(
        &initrd,
        "the initrd of 104857600 bytes does not fit",
        "--memory 256M",
    );

    let long = "x".repeat(70_000);
    let cmdline = [&small[..], &["--cmdline", &long]].concat();
    refused(
        &cmdline,
        "has 70014 bytes",
        "shorten --cmdline by 67967 bytes",
    );
    for odd in ["quiet\nsplash", "naïve", "\u{7f}"] {
        let cmdline = [&small[..], &["--cmdline", odd]].concat();
        refused(&cmdline, "not printable ASCII", "single quotes");
    }

    // The memory size of the first program header, which is the code's.
    let mut huge = elf_image();
    huge[64 + 40..][..8].copy_from_slice(&(200u64 << 20).to_le_bytes());
    let huge = TempFile::new(&huge);
    let huge = ["--memory", "64M", "--kernel", text(huge.path())];
    refused(
        &huge,
        "the kernel needs memory from 0x100000",
        "--memory 256M",
    );
}
