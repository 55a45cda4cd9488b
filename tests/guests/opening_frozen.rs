//! All processors of a guest stand still while one waits for long for its devices to be opened.

use std::sync::Arc;
use std::thread;

use iced_x86::code_asm::{al, byte_ptr, eax, ecx, edx};
use vmm::control::{ControlRequest, RunState};

use crate::Test;
use crate::common::asm::Asm;
use crate::device::FakeDevice;
use crate::opening::{A_WHILE, BOOTS, SOON, STARTED, config, id, looks};
use crate::vm::{Opens, Vm};

pub const TESTS: &[Test] = tests![
    the_others_are_frozen_after_a_while,
    a_guest_that_was_frozen_is_told,
    a_frozen_guest_is_reset,
    a_pause_does_not_disturb_a_freeze,
];

/// KVM's clock of a vCPU: the register, the page, and the byte of flags
/// (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW).
const CLOCK: (u32, u32) = (0x4b56_4d01, 0x7_0000);
const FLAGS: u32 = CLOCK.1 + 29;

/// A device in the first slot that is opened beside the guest, whose vCPUs are frozen soon.
fn one_with_a_freeze() -> Arc<Opens> {
    Opens::new(&[(&FakeDevice::new().into_arc(), config())], Some(A_WHILE))
}

/// A guest with two processors: one looks for the device, the other makes exits all the time.
fn looks_and_counts() -> Asm {
    let mut g = Asm::new();
    let (other, start) = (g.label(), g.label());
    g.local_apic_on().start_others(other, STARTED);
    g.jmp(start).bind(other);
    let again = g.here();
    // A port without a device, beyond those whose writes are coalesced.
    g.outb(0x510, 0).jmp(again).bind(start);
    looks(&mut g).power_off();
    g
}

fn the_others_are_frozen_after_a_while() {
    let opens = one_with_a_freeze();
    let vm = Vm::new(looks_and_counts()).cpus(2).opens(&opens);
    let ended = vm.run_beside(|live| {
        live.wait_for("looks\n");
        // From some moment on there are no exits any more.
        let mut before = live.exits();
        crate::vm::eventually("the guest is frozen", || {
            thread::sleep(A_WHILE);
            std::mem::replace(&mut before, live.exits()) == before
        });
        assert_eq!(live.control.state(), RunState::Running);
        opens.open();
    });
    assert_eq!(ended.powered_off(), id());
}

/// Each processor shows whether KVM's clock says that the guest was stopped (bit 1).
fn a_guest_that_was_frozen_is_told() {
    for patience in [A_WHILE, SOON * 10] {
        let device = FakeDevice::new().into_arc();
        let opens = Opens::new(&[(&device, config())], Some(patience));
        let mut g = Asm::new();
        g.code(|a| {
            a.mov(ecx, CLOCK.0)?;
            a.mov(eax, CLOCK.1 | 1)?;
            a.xor(edx, edx)?;
            a.wrmsr()
        });
        looks(&mut g);
        g.code(|a| {
            a.xor(eax, eax)?;
            a.mov(al, byte_ptr(FLAGS))?;
            a.and(eax, 2)
        });
        g.print_eax().power_off();
        let ended = Vm::new(g).opens(&opens).run_beside(|live| {
            live.wait_for("looks\n");
            thread::sleep(A_WHILE * 4);
            opens.open();
        });
        let told = if patience == A_WHILE { 2 } else { 0 };
        assert_eq!(ended.powered_off(), format!("{}{told:08x}\n", id()));
    }
}

fn a_frozen_guest_is_reset() {
    let opens = one_with_a_freeze();
    let mut g = Asm::new();
    g.inc32(BOOTS).show(BOOTS);
    looks(&mut g).power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("looks\n");
        thread::sleep(A_WHILE * 3);
        live.reset();
        live.wait_for("00000002\n");
        thread::sleep(A_WHILE * 3);
        opens.open();
    });
    let text = ended.powered_off();
    assert_eq!(text, format!("00000001\nlooks\n00000002\n{}", id()));
}

fn a_pause_does_not_disturb_a_freeze() {
    let opens = one_with_a_freeze();
    let vm = Vm::new(looks_and_counts()).cpus(2).opens(&opens);
    let ended = vm.run_beside(|live| {
        live.wait_for("looks\n");
        thread::sleep(A_WHILE * 3);
        // The vCPU that waits leaves its exit when the devices are open.
        thread::scope(|scope| {
            let pausing = scope.spawn(|| live.control.change(ControlRequest::Pause));
            thread::sleep(A_WHILE);
            assert!(!pausing.is_finished());
            opens.open();
            pausing.join().unwrap().unwrap();
        });
        assert_eq!(live.control.state(), RunState::Paused);
        let before = live.exits();
        thread::sleep(A_WHILE);
        assert_eq!(live.exits(), before);
        live.control.change(ControlRequest::Resume).unwrap();
    });
    assert_eq!(ended.powered_off(), id());
}
