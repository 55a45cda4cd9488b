//! What a guest gets less of is listed, each with its code.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mini_vmm::report::Report;
use vmm::log::degraded;
use vmm::machine::MachineError;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{FakeDevice, ROM};
use crate::irq_code::{ENABLE, MSI_64, MSI_ENABLE};
use crate::pci::{MEMORY, ROM_REGISTER, SLOT};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    a_device_that_lacks_nothing,
    a_bar_that_vfio_does_not_map,
    a_pin_that_a_thread_unmasks,
    fewer_messages,
    refused_interrupts,
    events_that_vfio_does_not_report,
    a_rom_that_cannot_be_read,
    a_failed_and_a_returned_device,
    a_device_that_has_gone,
    no_reset_at_all,
    a_dead_device_is_no_empty_slot,
    the_report_lists_them,
];

/// The codes of a device's losses. A loss is told once in a process for each name, so each test has
/// names of its own.
pub fn codes_of(device: &str) -> Vec<&'static str> {
    let losses = degraded::list().into_iter();
    let of_device = losses.filter(|loss| loss.device.as_deref() == Some(device));
    of_device
        .inspect(|loss| {
            let texts = [&loss.what, &loss.why, &loss.hint];
            assert!(texts.iter().all(|text| !text.is_empty()), "{loss:?}");
        })
        .map(|loss| loss.code.name())
        .collect()
}

fn named(name: &'static str, change: impl FnOnce(FakeDevice) -> FakeDevice) -> Arc<FakeDevice> {
    let mut device = change(FakeDevice::new());
    device.name = name;
    device.into_arc()
}

/// Runs a guest with the device; returns the report.
fn run(device: &Arc<FakeDevice>, build: impl FnOnce(&mut Asm)) -> Report {
    let mut g = Asm::new();
    build(&mut g);
    g.power_off();
    let ended = Vm::new(g).device(device).run();
    let report = ended.report.clone();
    ended.powered_off();
    report
}

fn a_device_that_lacks_nothing() {
    let device = named("0000:20:00.0", FakeDevice::with_resampled_pin);
    run(&device, |g| {
        g.command(MEMORY).msix_control(ENABLE);
    });
    assert_eq!(codes_of(device.name), [] as [&str; 0]);
}

fn a_bar_that_vfio_does_not_map() {
    let device = named("0000:21:00.0", |mut device| {
        device.unmapped = true;
        device
    });
    run(&device, |_| ());
    // BAR 0 and BAR 4; BAR 1 is smaller than a page, and BAR 2 has ports.
    assert_eq!(codes_of(device.name), ["bar-trapped"; 2]);
}

fn a_pin_that_a_thread_unmasks() {
    let device = named("0000:22:00.0", FakeDevice::with_pin);
    run(&device, |_| ());
    assert_eq!(codes_of(device.name), ["intx-by-thread"]);
}

fn fewer_messages() {
    let device = named("0000:23:00.0", |device| device.with_msi(MSI_64 | 4 << 1));
    device.set_available_msi(7);
    run(&device, |_| ());
    assert_eq!(codes_of(device.name), ["fewer-msi-vectors"]);
}

fn refused_interrupts() {
    let device = named("0000:24:00.0", |device| device.with_msi(MSI_64));
    let started = Arc::clone(&device);
    let mut g = Asm::new();
    g.print("\n").wait_key();
    g.msi_message(MSI_64, 0x40).msi_control(MSI_ENABLE);
    g.power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("\n");
        started.failing_events.store(1, Ordering::Relaxed);
        live.press_key();
    });
    ended.powered_off();
    assert_eq!(codes_of(device.name), ["interrupts-refused"]);
}

fn events_that_vfio_does_not_report() {
    let device = named("0000:25:00.0", |mut device| {
        device.has_events = false;
        device
    });
    run(&device, |_| ());
    assert_eq!(
        codes_of(device.name),
        ["no-error-event", "no-request-event"]
    );
}

fn a_rom_that_cannot_be_read() {
    let device = named("0000:26:00.0", |device| device);
    let (deaf, mut g) = (Arc::clone(&device), Asm::new());
    g.command(MEMORY)
        .cfg_write(SLOT, ROM_REGISTER, Width::Dword, ROM | 1);
    g.print("\n")
        .wait_key()
        .load32(ROM)
        .print("read\n")
        .wait_key()
        .power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("\n");
        deaf.deaf.store(true, Ordering::Relaxed);
        live.press_key();
        live.wait_for("read");
        deaf.deaf.store(false, Ordering::Relaxed);
        live.press_key();
    });
    ended.powered_off();
    assert_eq!(codes_of(device.name), ["rom-unreadable"]);
}

fn a_failed_and_a_returned_device() {
    for (name, event, code) in [
        ("0000:27:00.0", 0, "device-failed"),
        ("0000:27:00.1", 1, "device-returned"),
    ] {
        let device = named(name, |device| device);
        let (signals, mut g) = (Arc::clone(&device), Asm::new());
        g.print("\n").wait_key().power_off();
        let ended = Vm::new(g).device(&device).run_beside(|live| {
            live.wait_for("\n");
            signals.device_event(event);
            crate::vm::eventually("the loss is told", || !codes_of(name).is_empty());
            live.press_key();
        });
        ended.powered_off();
        assert_eq!(codes_of(name), [code]);
    }
}

fn a_device_that_has_gone() {
    let device = named("0000:28:00.0", |device| device);
    let (gone, mut g) = (Arc::clone(&device), Asm::new());
    g.command(MEMORY)
        .load32(crate::device::BAR0 + 0x40)
        .print("\n")
        .wait_key();
    g.load32(crate::device::BAR0 + 0x40).power_off();
    let ended = Vm::new(g).device(&device).run_beside(|live| {
        live.wait_for("\n");
        gone.deaf.store(true, Ordering::Relaxed);
        gone.remove_pages();
        live.press_key();
    });
    ended.powered_off();
    assert_eq!(codes_of(device.name), ["device-gone"]);
}

fn no_reset_at_all() {
    let device = named("0000:29:00.0", FakeDevice::no_reset);
    run(&device, |_| ());
    assert_eq!(codes_of(device.name), ["no-reset"]);
}

fn a_dead_device_is_no_empty_slot() {
    let device = named("0000:2a:00.0", |device| device);
    device.die();
    let error = Vm::new(Asm::new()).refused(device);
    let (text, hint) = (error.to_string(), error.hint().unwrap_or_default());
    assert!(matches!(error, MachineError::Function(_)), "{error:?}");
    assert!(text.contains("0000:2a:00.0 does not answer"), "{text}");
    for word in ["disable_idle_d3", "0000:2a:00.0/remove"] {
        assert!(hint.contains(word), "{hint}");
    }
}

fn the_report_lists_them() {
    let device = named("0000:2b:00.0", FakeDevice::no_reset);
    let report = run(&device, |_| ());
    let mut losses = report.degraded.iter();
    let loss = losses.find(|loss| loss.device.as_deref() == Some(device.name));
    let loss = loss.expect("the device's loss is in the report");
    assert_eq!(loss.code.name(), "no-reset");
    let table = report.to_string();
    for text in ["no-reset  0000:2b:00.0: not reset", &loss.hint] {
        assert!(table.contains(text), "{table}");
    }
}
