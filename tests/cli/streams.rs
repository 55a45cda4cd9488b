//! Standard input and output that are pipes and files.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::common::asm::{Asm, Width};
use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{Running, command, eventually, kernel};

/// Sends every character back; powers off after a `!`.
fn echo(g: &mut Asm) {
    g.print("ready\n");
    let (again, end) = (g.here(), g.label());
    g.wait_key().cmp_eax(b'!'.into()).je(end);
    g.mov_edx(0x3f8).out_dx(Width::Byte).jmp(again);
    g.bind(end).power_off();
}

/// Much more than the UART holds.
fn long_text() -> String {
    (0..200).map(|i| format!("line {i}\n")).collect()
}

#[test]
fn piped_input_reaches_the_guest() {
    if !kvm() {
        return;
    }
    let mut run = Running::start(kernel(echo), &[]);
    let text = long_text();
    run.stdout.wait_for("ready\n");
    let stdin = run.stdin.as_mut().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    stdin.write_all(b"!").unwrap();
    run.ends_well();
    run.stdout.wait_for(&text);
    assert_eq!(run.stdout.text(), format!("ready\n{text}"));
}

/// In a pipe Ctrl-A is a character like any other.
#[test]
fn a_pipe_has_no_escape_character() {
    if !kvm() {
        return;
    }
    let mut run = Running::start(kernel(echo), &[]);
    run.stdin
        .as_mut()
        .unwrap()
        .write_all(b"\x01x\x03!")
        .unwrap();
    run.ends_well();
    run.stdout.wait_for("\x01x\x03");
}

#[test]
fn a_file_as_input() {
    if !kvm() {
        return;
    }
    let text = long_text();
    let input = TempFile::new(format!("{text}!").as_bytes());
    let guest = kernel(echo);
    let mut command = command(&guest, &[]);
    command
        .stdin(File::open(input.path()).unwrap())
        .stdout(Stdio::piped());
    let mut run = Running::spawn(command, guest);
    run.ends_well();
    run.stdout.wait_for(&format!("ready\n{text}"));
}

#[test]
fn input_that_ends_does_not_end_the_guest() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.wait_key().print("got it");
        g.repeat(100_000, |g| {
            g.pause();
        });
        g.input(Width::Byte, 0x3fd).power_off();
    });
    let mut run = Running::start(guest, &[]);
    run.stdin.take().unwrap().write_all(b"k").unwrap();
    run.ends_well();
    run.stdout.wait_for("got it");
}

/// Prints for ever.
fn chatter(g: &mut Asm) {
    let again = g.here();
    g.print("and so on ").jmp(again);
}

#[test]
fn output_that_is_closed() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print(&"x".repeat(200)).power_off();
    });
    let mut command = command(&guest, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdin(Stdio::null()).stdout(writer);
    drop(reader);
    let mut run = Running::spawn(command, guest);
    run.ends_well();
}

#[test]
fn output_that_is_closed_in_mid_sentence() {
    if !kvm() {
        return;
    }
    let guest = kernel(chatter);
    let mut command = command(&guest, &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdin(Stdio::null()).stdout(writer);
    let mut run = Running::spawn(command, guest);
    let mut some = [0; 1000];
    reader.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"and so on and"));
    drop(reader);
    run.signal(libc::SIGTERM);
    run.ends_well();
}

/// The guest's write waits for a reader that never reads; a signal must end the run anyway.
#[test]
fn output_that_nobody_reads() {
    if !kvm() {
        return;
    }
    for cpus in ["1", "2"] {
        let guest = kernel(chatter);
        let mut command = command(&guest, &["--cpus", cpus]);
        let (mut reader, writer) = std::io::pipe().unwrap();
        command.stdin(Stdio::null()).stdout(writer);
        let mut run = Running::spawn(command, guest);
        // The guest runs. From here on nothing reads its output.
        reader.read_exact(&mut [0; 10]).unwrap();
        // The pipe is full when two reports are equal.
        let mut last = String::new();
        eventually("a full pipe", || {
            let before = run.stderr.text().len();
            run.signal(libc::SIGUSR1);
            eventually("a report", || run.stderr.text().len() > before);
            thread::sleep(Duration::from_millis(50));
            let text = run.stderr.text();
            let report = text.lines().last().unwrap_or_default().to_string();
            std::mem::replace(&mut last, report.clone()) == report
        });
        run.signal(libc::SIGTERM);
        assert_eq!(run.status(), Some(0));
        drop(reader);
    }
}

/// Coalesced writes are done when the run is ended from outside, too.
#[test]
fn what_a_guest_wrote_last_is_not_lost() {
    if !kvm() {
        return;
    }
    let last_words = || {
        let guest = kernel(|g| {
            // A read of the line status is an exit; no exit follows.
            g.print("before").input(Width::Byte, 0x3fd);
            g.print(", and after").hang();
        });
        let mut run = Running::start(guest, &[]);
        run.stdout.wait_for("before");
        // Long enough for a few instructions, shorter than characters are kept at most.
        thread::sleep(Duration::from_millis(30));
        run.signal(libc::SIGTERM);
        run.ends_well();
        run.stdout.text()
    };
    // On a loaded host a guest may be slower than that.
    let said: Vec<_> = (0..5).map(|_| last_words()).collect();
    assert!(
        said.iter().any(|text| text == "before, and after"),
        "{said:?}"
    );
}
