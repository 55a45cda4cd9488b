//! `make lab-shell` with a program in place of a person: the commands that the welcome names work,
//! and `exit` ends it.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use lab::host::{self, Host};

/// What is typed, one line at each prompt. A guest would read what is typed too early.
const TYPED: [&str; 6] = [
    "mini-vmm host bind 00:05.0",
    "mini-vmm $boot --cmdline quiet --vfio 00:05.0,mmap=off,irqfd=off --stats",
    "mini-vmm host unbind 00:05.0",
    "echo the driver is $(driver_of 0000:00:05.0)",
    "mini-vmm-trace --version",
    "exit",
];

/// What the shell prints when it waits.
const PROMPT: &str = "L1:~# ";

/// Reads until the shell waits, or has ended.
fn read_to_prompt(from: &mut ChildStdout) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(PROMPT.as_bytes()) && from.read(&mut byte).unwrap() == 1 {
        bytes.extend(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn talk(input: &mut ChildStdin, output: &mut ChildStdout) -> String {
    let mut text = read_to_prompt(output);
    for line in TYPED {
        writeln!(input, "{line}").unwrap();
        text += &read_to_prompt(output);
    }
    text
}

#[test]
#[ignore = "boots an emulated machine; `make test-all` runs it"]
fn a_shell_in_l1_passes_a_disk_through() {
    if let Err(why) = Host::find() {
        assert!(!host::required(), "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    let mut shell = Command::new(env!("CARGO_BIN_EXE_shell"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    let mut output = shell.stdout.take().unwrap();
    let text = talk(&mut input, &mut output);
    let status = shell.wait().unwrap();
    for part in [
        "This is L1",
        "L2: done poweroff",
        "BAR 0 + 0x1008",
        "a thread woke for",
        "the driver is nvme",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(status.success(), "{text}");
}
