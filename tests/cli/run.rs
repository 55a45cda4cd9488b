//! Runs that end: by the guest, by a signal.

use iced_x86::code_asm::eax;

use crate::common::asm::{COM1_STATUS, Width};
use crate::kvm;
use crate::process::{Running, kernel};

#[test]
fn power_off_ends_with_0() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("Hello\n").power_off();
    });
    let mut run = Running::start(guest, &[]);
    run.ends_well();
    run.stdout.wait_for("Hello\n");
    assert_eq!(run.stdout.text(), "Hello\n");
}

#[test]
fn no_reboot_ends_with_0() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.reset();
    });
    Running::start(guest, &["--no-reboot"]).ends_well();
}

#[test]
fn a_triple_fault_ends_with_3() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.triple_fault();
    });
    let mut run = Running::start(guest, &["--no-reboot"]);
    assert_eq!(run.status(), Some(3));
}

/// The message has what KVM tells: the name of the suberror, and its data.
#[test]
fn an_internal_error_of_kvm_is_told_whole() {
    if !kvm() {
        return;
    }
    // No memory is there, so KVM cannot fetch an instruction.
    let guest = kernel(|g| {
        g.mov_eax(0xc000_0000).code(|a| a.jmp(eax));
    });
    let mut run = Running::start(guest, &["--no-reboot"]);
    let status = run.status();
    let said = run.stderr.text();
    assert_eq!(status, Some(1), "{said}");
    let found = said.contains("(KVM_INTERNAL_ERROR_EMULATION, ") && said.contains("data 0x");
    assert!(found, "{said}");
}

#[test]
fn it_boots_again_until_it_is_stopped() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.print("boot\n").reset();
    });
    let mut run = Running::start(guest, &[]);
    run.stdout.wait_for(&"boot\n".repeat(20));
    run.signal(libc::SIGTERM);
    run.ends_well();
}

#[test]
fn signals_end_a_run_in_order() {
    if !kvm() {
        return;
    }
    for (signal, cpus) in [
        (libc::SIGTERM, "1"),
        (libc::SIGINT, "1"),
        (libc::SIGHUP, "1"),
        (libc::SIGTERM, "4"),
    ] {
        let guest = kernel(|g| {
            g.print("ready").hang();
        });
        let mut run = Running::start(guest, &["--cpus", cpus]);
        run.stdout.wait_for("ready");
        run.signal(signal);
        run.ends_well();
    }
}

#[test]
fn sigusr1_reports_and_the_guest_goes_on() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        // Letters are kept in KVM's ring and make no exit. The load makes one, which shows them.
        for _ in 0..4 {
            g.input(Width::Byte, COM1_STATUS);
        }
        g.print("ready").load32(0xc000_0000).wait_key();
        g.print("on").hang();
    });
    let mut run = Running::start(guest, &[]);
    run.stdout.wait_for("ready");
    run.signal(libc::SIGUSR1);
    run.stderr.wait_for("total=");
    run.stderr.wait_for("\n");
    let line = run.stderr.text();
    let numbers: Vec<u64> = line
        .strip_prefix("mini-vmm: exits ")
        .unwrap_or_else(|| panic!("{line:?}"))
        .trim_end()
        .split(' ')
        .zip(["pio=", "mmio=", "other=", "total="])
        .map(|(field, name)| field.strip_prefix(name).unwrap().parse().unwrap())
        .collect();
    let [pio, mmio, other, total] = numbers[..] else {
        panic!("{line:?}");
    };
    assert_eq!(pio + mmio + other, total);
    // The four reads of the serial port's status were counted before the letters were shown.
    assert!(pio >= 4, "{line:?}");
    std::io::Write::write_all(run.stdin.as_mut().unwrap(), b"k").unwrap();
    run.stdout.wait_for("on");
    run.signal(libc::SIGTERM);
    assert_eq!(run.status(), Some(0));
    assert_eq!(run.stderr.text(), line);
}
