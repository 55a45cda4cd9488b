//! Every refusal of KVM in docs/errnos.md, on the real program and the real /dev/kvm: a seccomp
//! filter answers one ioctl with one errno. The lab does the same for VFIO and iommufd, and for
//! KVM's calls that need a device.

use std::io;
use std::process::{Command, Output};

use vmm::errnos::{Row, number, rows};

use crate::answer_ioctl::answer_ioctl;
use crate::common::elf::TempFile;
use crate::process::{command, kernel};
use crate::{kvm, skipped};

/// The ioctl's type (KVMIO) and number (include/uapi/linux/kvm.h) of a call; `None` for the calls
/// that a run without a device does not make.
fn request(call: &str) -> Option<u16> {
    let number = match call {
        "KVM_GET_API_VERSION" => 0x00,
        "KVM_CREATE_VM" => 0x01,
        "KVM_GET_MSR_INDEX_LIST" => 0x02,
        "KVM_GET_SUPPORTED_CPUID" => 0x05,
        "KVM_CREATE_VCPU" => 0x41,
        "KVM_SET_USER_MEMORY_REGION" => 0x46,
        "KVM_SET_TSS_ADDR" => 0x47,
        "KVM_SET_IDENTITY_MAP_ADDR" => 0x48,
        "KVM_CREATE_IRQCHIP" => 0x60,
        "KVM_GET_IRQCHIP" => 0x62,
        "KVM_SET_IRQCHIP" => 0x63,
        "KVM_IRQFD" => 0x76,
        "KVM_RUN" => 0x80,
        "KVM_GET_REGS" => 0x81,
        "KVM_SET_REGS" => 0x82,
        "KVM_GET_SREGS" => 0x83,
        "KVM_SET_SREGS" => 0x84,
        "KVM_GET_MSRS" => 0x88,
        "KVM_SET_MSRS" => 0x89,
        "KVM_SET_FPU" => 0x8d,
        "KVM_GET_LAPIC" => 0x8e,
        "KVM_SET_LAPIC" => 0x8f,
        "KVM_SET_CPUID2" => 0x90,
        "KVM_ENABLE_CAP" => 0xa3,
        "KVM_GET_XSAVE" => 0xa4,
        "KVM_GET_XCRS" => 0xa6,
        _ => return None,
    };
    Some(0xae00 | number)
}

/// KVM's calls that are made for a device only; the lab has their rows.
const WITH_A_DEVICE: [&str; 3] = [
    "KVM_CREATE_DEVICE",
    "KVM_DEV_VFIO_FILE_ADD",
    "KVM_SET_GSI_ROUTING",
];

fn run(kernel: &TempFile, call: &str, errno: i32) -> Output {
    let native = call == "KVM_ENABLE_CAP";
    let idle: &[&str] = if native {
        &["--cpus", "1,idle=native"]
    } else {
        &[]
    };
    let mut command = command(kernel, idle);
    answer_ioctl(&mut command, request(call).unwrap(), errno);
    command.output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().map(str::to_owned).collect()
}

/// The run has ended with the row's sentence, the kernel's text, the row's hint, and nothing else.
#[track_caller]
fn check(row: &Row, output: &Output) {
    let said = lines(output);
    assert_eq!(output.status.code(), Some(1), "{row:?}: {said:?}");
    assert!(output.stdout.is_empty(), "{row:?}");
    let [chain, hint] = &said[..] else {
        panic!("{row:?}: not two lines: {said:?}");
    };
    assert!(chain.starts_with("mini-vmm: "), "{row:?}: {chain}");
    assert!(chain.contains(row.meaning), "{row:?}: {chain}");
    assert!(
        chain.contains(&format!("({}", row.call)),
        "{row:?}: {chain}"
    );
    let text = io::Error::from_raw_os_error(number(row.errno).unwrap()).to_string();
    assert!(chain.ends_with(&text), "{row:?}: {chain}");
    assert_eq!(*hint, format!("hint: {}", row.hint), "{row:?}");
}

#[test]
fn every_refusal_of_kvm_is_explained() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.power_off();
    });
    let native = kvm_ioctls::Kvm::new()
        .unwrap()
        .check_extension_raw(kvm_bindings::KVM_CAP_X86_DISABLE_EXITS.into());
    let mut seen = 0;
    for row in rows().filter(|row| row.interface == "kvm") {
        if WITH_A_DEVICE.contains(&row.call) {
            continue;
        }
        if row.call == "KVM_ENABLE_CAP" && native & 2 == 0 {
            skipped("this KVM cannot leave HLT to the guest, so KVM_ENABLE_CAP is not called");
            continue;
        }
        check(&row, &run(&guest, row.call, number(row.errno).unwrap()));
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
    // Nothing stays behind: a plain run works.
    let mut plain: Command = command(&guest, &[]);
    let output = plain.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{:?}", lines(&output));
}

/// The kernel's own text, and no hint that somebody made up.
#[test]
fn an_unknown_refusal_has_no_hint() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.power_off();
    });
    for call in ["KVM_CREATE_VM", "KVM_SET_CPUID2", "KVM_SET_MSRS", "KVM_RUN"] {
        let output = run(&guest, call, libc::EXDEV);
        assert_eq!(output.status.code(), Some(1));
        let said = lines(&output);
        let [chain] = &said[..] else {
            panic!("not one line: {said:?}");
        };
        let text = format!("{call} failed: Invalid cross-device link (os error 18)");
        assert!(chain.ends_with(&text), "{chain}");
    }
}
