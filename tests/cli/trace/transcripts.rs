//! Golden transcripts: what the trace says of KVM's bare calls, and of mini-vmm with a tiny guest.

use std::fs;
use std::process::Stdio;

use super::behaviour::compiled;
use super::run::trace;
use crate::common::asm::Width;
use crate::common::elf::TempFile;
use crate::common::{golden, transcript};
use crate::process::{PROGRAM, kernel};
use crate::{kvm, skipped};

const STABLE: &str = include_str!("../../golden/trace/stable.txt");
const HOST: &str = include_str!("../../golden/trace/host.txt");

/// Traces a command, and compares its transcript with the golden file.
fn compare(name: &str, command: &[&str]) {
    let out = TempFile::new(b"");
    let path = out.path().display().to_string();
    let output = trace(&["-o", &path], command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = fs::read_to_string(out.path()).unwrap();
    assert!(!text.contains(" ioctl 0x"), "a call is not decoded: {text}");
    let patterns = format!("{STABLE}\n{HOST}");
    golden::check(
        name,
        &transcript::transcript(&text, &patterns, transcript::Order::Time),
    );
}

/// Any thread may be the first to stop after a write that KVM has kept.
#[test]
fn kept_writes_are_before_their_exit_by_whichever_thread() {
    let trace = |teller: &str, time: &str| {
        let text = format!(
            "   0.000100      11 vm           KVM_SET_GSI_ROUTING(nr=1) = 0 <1 µs>\n   \
             {time}      {teller} vm           coalesced out cf8.4  PCI <- 1\n   \
             0.000200      12 vcpu 0       out cfc.4  00:01.0 BAR0 <- 1 <1 µs>\n   \
             0.000300      12 vm             └ KVM_IRQFD(gsi=1) = 0 <1 µs>\n"
        );
        transcript::transcript(&text, "", transcript::Order::Thread)
    };
    let by_vcpu = trace("12", "0.000200");
    let kept = by_vcpu.find("coalesced").unwrap();
    assert!(by_vcpu.find("KVM_SET_GSI").unwrap() < kept);
    assert!(kept < by_vcpu.find("KVM_IRQFD").unwrap());
    assert_eq!(trace("13", "0.000250"), by_vcpu);
    assert_eq!(trace("10", "0.000050"), by_vcpu);
}

#[test]
fn the_bare_calls_are_transcribed() {
    if !kvm() {
        return;
    }
    let program = compiled("bare", include_str!("bare.c"));
    compare("trace/bare.txt", &[&program.display().to_string()]);
    fs::remove_file(&program).unwrap();
}

#[test]
fn a_tiny_guest_of_mini_vmm_is_transcribed() {
    if !kvm() {
        return;
    }
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !processor.contains("AuthenticAMD") {
        return skipped("the golden transcript has the registers of AMD's processors");
    }
    let guest = kernel(|g| {
        g.out(Width::Dword, 0xcf8, 0x8000_0000)
            .input(Width::Dword, 0xcfc);
        g.load32(0xc000_0000).store32(0xc000_0004, 7);
        g.print("ok").input(Width::Byte, 0x3fd);
        g.power_off();
    });
    let path = guest.path().display().to_string();
    compare(
        "trace/mini-vmm.txt",
        &[PROGRAM, "--kernel", &path, "--memory", "64M"],
    );
}
