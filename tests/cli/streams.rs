//! Standard input and output that are pipes and files.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use iced_x86::code_asm::al;

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

/// A guest that does not look at its serial port loses characters to a reader that never reads; a
/// signal must end the run anyway.
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
        run.stderr.wait_for("busy serial port: characters are lost");
        run.signal(libc::SIGTERM);
        assert_eq!(run.status(), Some(0));
        assert!(run.stderr.text().contains("nobody reads"));
        drop(reader);
    }
}

/// As drivers do: each time that the transmitter is empty, a FIFO full of characters.
fn polite(g: &mut Asm, line: &str, count: u32) {
    const TRANSMITTER_EMPTY: u32 = 1 << 5;
    g.repeat(count, |g| {
        let busy = g.here();
        g.input(Width::Byte, 0x3fd);
        g.code(|a| a.test(al, TRANSMITTER_EMPTY)).je(busy);
        g.print(line);
    });
}

/// While the reader of the console has stopped, the guest's vCPU goes on: it looks at its serial
/// port again and again. When the reader goes on, nothing is missing.
#[test]
fn a_reader_that_stops_holds_up_no_vcpu() {
    if !kvm() {
        return;
    }
    const LINE: &str = "0123456789abcde\n";
    // More than a pipe and the queue hold.
    const LINES: usize = 12_000;
    let guest = kernel(|g| {
        polite(g, LINE, LINES as u32);
        g.wait_key().power_off();
    });
    let mut command = command(&guest, &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdin(Stdio::piped()).stdout(writer);
    let mut run = Running::spawn(command, guest);
    // The guest runs. From here on the reader takes nothing for a while.
    let mut text = vec![0; LINE.len() * LINES];
    reader.read_exact(&mut text[..1]).unwrap();
    let report = |run: &Running| {
        let before = run.stderr.text().len();
        run.signal(libc::SIGUSR1);
        eventually("a report", || run.stderr.text()[before..].ends_with('\n'));
        let text = run.stderr.text();
        let total = text.rsplit("total=").next().unwrap_or_default();
        total.trim_end().parse::<u64>().unwrap()
    };
    // Far more exits than the guest needs for as many lines as the pipe and the queue hold.
    let end = Instant::now() + Duration::from_secs(30);
    let wanted = 4 * LINES as u64;
    while report(&run) < wanted {
        assert!(Instant::now() < end, "the vCPU waits for the reader");
        thread::sleep(Duration::from_millis(50));
    }
    reader.read_exact(&mut text[1..]).unwrap();
    assert!(
        text == LINE.repeat(LINES).into_bytes(),
        "characters are missing"
    );
    run.stdin.as_mut().unwrap().write_all(b"k").unwrap();
    assert_eq!(run.status(), Some(0));
    assert!(!run.stderr.text().contains("lost"));
}

/// What is in the queue when the guest powers off reaches a slow reader.
#[test]
fn a_slow_reader_gets_the_end() {
    if !kvm() {
        return;
    }
    const LINES: usize = 7_000;
    let guest = kernel(|g| {
        polite(g, "0123456789abcde\n", LINES as u32);
        g.power_off();
    });
    let mut command = command(&guest, &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdin(Stdio::null()).stdout(writer);
    let mut run = Running::spawn(command, guest);
    let mut text = Vec::new();
    let mut part = [0; 8192];
    while let Ok(count @ 1..) = reader.read(&mut part) {
        text.extend_from_slice(&part[..count]);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(text.len(), 16 * LINES);
    run.ends_well();
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
