//! A guest that runs while its devices are opened: only an access to them waits.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmm::config::device::{DeviceConfig, PortChoice};
use vmm::machine::Exit;
use vmm::plug::AddError;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{BAR0, FakeDevice, ID};
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT};
use crate::plug_host::{PlugHost, request};
use crate::vm::{Ended, Live, Opens, Vm};

pub const TESTS: &[Test] = tests![
    devices_that_open_at_once,
    the_first_access_waits,
    a_late_access_does_not_wait,
    a_guest_without_an_access_does_not_wait,
    accesses_to_others_do_not_wait,
    each_way_to_a_device_waits,
    a_port_waits_and_what_is_behind,
    two_processors_wait,
    a_failure_ends_a_guest_that_waits,
    a_failure_ends_a_guest_that_does_not,
    a_failure_before_the_guest_runs,
    a_failure_after_the_guest_has_ended,
    a_reset_ends_a_wait,
    a_triple_fault_ends_a_wait,
    the_user_ends_a_wait,
    nothing_is_written_before_all_are_open,
    an_add_waits,
    an_add_ends_with_its_client_and_with_the_run,
    a_wait_behind_an_empty_port_counts,
    the_user_ends_a_run_whose_guest_has_ended,
];

/// How long a test looks at what must not happen.
pub const A_WHILE: Duration = Duration::from_millis(50);
/// Much less than a device may take.
pub const SOON: Duration = Duration::from_secs(5);
/// A dword of RAM that no boot overwrites.
pub const BOOTS: u32 = 0x6_0000;
/// A dword that another processor counts in.
const COUNT: u32 = 0x6_0010;
pub const STARTED: u32 = 0x5_0000;
pub fn config() -> DeviceConfig {
    DeviceConfig {
        address: "0000:01:00.0".into(),
        ..DeviceConfig::default()
    }
}

/// A device in the first slot that is opened beside the guest.
fn one() -> (Arc<FakeDevice>, Arc<Opens>) {
    let device = FakeDevice::new().into_arc();
    let opens = Opens::new(&[(&device, config())], None);
    (device, opens)
}

/// The guest says that it comes to the device, and shows what it finds.
pub fn looks(g: &mut Asm) -> &mut Asm {
    g.print("looks\n").cfg_show(SLOT, 0)
}

fn looks_once() -> Asm {
    let mut g = Asm::new();
    looks(&mut g).power_off();
    g
}

/// Waits until the guest waits, as far as that is seen.
fn waits(live: &Live, text: &str) {
    live.wait_for("looks\n");
    thread::sleep(A_WHILE);
    assert_eq!(live.count_of(text), 0, "the access has not waited");
}

pub fn id() -> String {
    format!("looks\n{ID:08x}\n")
}

fn devices_that_open_at_once() {
    let (_, opens) = one();
    opens.open();
    let ended = Vm::new(looks_once()).opens(&opens).run();
    assert_eq!(ended.powered_off(), id());
}

fn the_first_access_waits() {
    let (device, opens) = one();
    let vm = Vm::new(looks_once()).opens(&opens).measured();
    let ended = vm.run_beside(|live| {
        waits(live, &format!("{ID:08x}"));
        assert!(device.calls().is_empty(), "{:?}", device.calls());
        opens.open();
    });
    let [told] = &ended.report.devices[..] else {
        panic!("{:?}", ended.report.devices);
    };
    let waited = Duration::from_micros(told.waited_us);
    assert!((A_WHILE..SOON).contains(&waited), "{waited:?}");
    assert_eq!(ended.powered_off(), id());
}

fn a_late_access_does_not_wait() {
    let (_, opens) = one();
    let mut g = Asm::new();
    g.print("waits\n").wait_key();
    looks(&mut g).power_off();
    let vm = Vm::new(g).opens(&opens).measured();
    let ended = vm.run_beside(|live| {
        live.wait_for("waits\n");
        opens.open();
        // Its functions are there a little later.
        thread::sleep(A_WHILE);
        live.press_key();
    });
    assert_eq!(ended.report.devices[0].waited_us, 0);
    assert_eq!(ended.powered_off(), format!("waits\n{}", id()));
}

fn a_guest_without_an_access_does_not_wait() {
    let (device, opens) = one();
    let mut g = Asm::new();
    g.print("nothing\n").power_off();
    // The run waits for the devices all the same: one might be refused.
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("nothing\n");
        assert!(device.calls().is_empty());
        opens.open();
    });
    assert_eq!(ended.powered_off(), "nothing\n");
}

fn accesses_to_others_do_not_wait() {
    let (_, opens) = one();
    let mut g = Asm::new();
    // The host bridge, no device, another function of the device's slot, a bus that is not there,
    // memory where BARs may be.
    g.cfg_show(0, 0).cfg_show(SLOT + 1, 0);
    for address in [(0, SLOT, 1), (1, 0, 0)] {
        let port = g.cfg_address(address, 0);
        g.input(Width::Dword, port).print_eax();
    }
    g.show(BAR0).mov_eax(0xe0d).print_eax().power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("e0d\n");
        opens.open();
    });
    let numbers = ended.numbers();
    assert_ne!(numbers[0], u32::MAX);
    assert_eq!(numbers[1..5], [u32::MAX; 4]);
}

fn each_way_to_a_device_waits() {
    type Way = fn(&mut Asm);
    let ways: [Way; 3] = [
        |g| _ = g.show(crate::pci::ecam(SLOT, 0)),
        |g| _ = g.command(MEMORY).cfg_show(SLOT, 0),
        |g| _ = g.store32(crate::pci::ecam(SLOT, 0x3c), 1).cfg_show(SLOT, 0),
    ];
    for way in ways {
        let (_, opens) = one();
        let mut g = Asm::new();
        g.print("looks\n");
        way(&mut g);
        g.power_off();
        let ended = Vm::new(g).opens(&opens).run_beside(|live| {
            waits(live, &format!("{ID:08x}"));
            opens.open();
        });
        assert_eq!(ended.powered_off(), id());
    }
}

fn a_port_waits_and_what_is_behind() {
    // An access to the port, and one to the bus behind it.
    for (bus, device, found) in [(0, SLOT, true), (1, 0, false)] {
        let config = DeviceConfig {
            port: PortChoice::On,
            ..config()
        };
        let opens = Opens::new(&[(&FakeDevice::new().into_arc(), config)], None);
        let mut g = Asm::new();
        g.print("looks\n");
        let port = g.cfg_address((bus, device, 0), 0);
        g.input(Width::Dword, port).print_eax();
        // The bus numbers are firmware's.
        g.print("behind\n");
        let port = g.cfg_address((1, 0, 0), 0);
        g.input(Width::Dword, port).print_eax().power_off();
        let ended = Vm::new(g).opens(&opens).run_beside(|live| {
            live.wait_for("looks\n");
            thread::sleep(A_WHILE);
            assert_eq!(live.count_of("behind"), 0);
            opens.open();
        });
        let text = ended.powered_off();
        assert!(text.ends_with(&format!("behind\n{ID:08x}\n")), "{text}");
        assert_eq!(
            text.matches(&format!("{ID:08x}")).count(),
            2 - usize::from(found)
        );
    }
}

fn two_processors_wait() {
    let (_, opens) = one();
    let mut g = Asm::new();
    let (other, start, wrong) = (g.label(), g.label(), g.label());
    g.local_apic_on().start_others(other, STARTED);
    g.jmp(start).bind(other);
    g.load32(crate::pci::ecam(SLOT, 0)).cmp_eax(ID).jne(wrong);
    g.lock_inc32(COUNT).bind(wrong).hang().bind(start);
    looks(&mut g);
    let again = g.here();
    g.load32(COUNT).cmp_eax(1).jne(again).power_off();
    let ended = Vm::new(g).cpus(2).opens(&opens).run_beside(|live| {
        waits(live, &format!("{ID:08x}"));
        opens.open();
    });
    assert_eq!(ended.powered_off(), id());
}

#[track_caller]
fn check_refused(exit: Result<Exit, vmm::machine::MachineError>) {
    let e = exit.unwrap_err();
    assert!(e.to_string().contains("the kernel refuses"), "{e}");
    assert!(e.hint().is_some());
}

fn a_failure_ends_a_guest_that_waits() {
    let (device, opens) = one();
    let vm = Vm::new(looks_once()).opens(&opens).measured();
    let ended = vm.run_beside(|live| {
        waits(live, &format!("{ID:08x}"));
        opens.fail();
    });
    check_refused(ended.exit);
    assert_eq!(ended.text, "looks\n");
    // Registers have names without the devices.
    let registers = &ended.report.exits.registers;
    assert!(
        registers.iter().any(|register| register.range.is_some()),
        "{registers:?}"
    );
    assert!(device.calls().is_empty());
}

fn a_failure_ends_a_guest_that_does_not() {
    let (_, opens) = one();
    let mut g = Asm::new();
    g.print("runs\n").hang();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("runs\n");
        opens.fail();
    });
    check_refused(ended.exit);
}

/// A guest that ends while its device is still being opened, and what happens a while later.
fn after_the_guest_has_ended(act: impl FnOnce(&Live, &Opens) + Send) -> Ended {
    let (_, opens) = one();
    let mut g = Asm::new();
    g.print("ends\n").power_off();
    Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("ends\n");
        thread::sleep(A_WHILE);
        act(live, &opens);
    })
}

fn a_failure_after_the_guest_has_ended() {
    check_refused(after_the_guest_has_ended(|_, opens| opens.fail()).exit);
}

fn a_failure_before_the_guest_runs() {
    let (_, opens) = one();
    opens.fail();
    check_refused(Vm::new(looks_once()).opens(&opens).run().exit);
}

/// A guest whose first boot waits for the device, which another processor ends. The second boot
/// waits too.
fn ended_by(end: impl FnOnce(&mut Asm)) {
    let (device, opens) = one();
    let mut g = Asm::new();
    let (other, start, second) = (g.label(), g.label(), g.label());
    g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(second);
    g.local_apic_on().start_others(other, STARTED);
    g.jmp(start).bind(other);
    g.wait_key();
    end(&mut g);
    g.bind(start)
        .print("first\n")
        .cfg_show(SLOT, 0)
        .bind(second);
    looks(&mut g).power_off();
    let ended = Vm::new(g).cpus(2).opens(&opens).run_beside(|live| {
        live.wait_for("first\n");
        thread::sleep(A_WHILE);
        live.press_key();
        waits(live, &format!("{ID:08x}"));
        assert!(device.calls().is_empty());
        opens.open();
    });
    assert_eq!(ended.powered_off(), format!("first\n{}", id()));
}

fn a_reset_ends_a_wait() {
    ended_by(|g| _ = g.reset());
}

fn a_triple_fault_ends_a_wait() {
    ended_by(|g| _ = g.triple_fault());
}

/// As SIGTERM and Ctrl-A x do.
fn the_user_ends_a_wait() {
    let (_, opens) = one();
    let mut ends = None;
    let ended = Vm::new(looks_once()).opens(&opens).run_beside(|live| {
        waits(live, &format!("{ID:08x}"));
        ends = Some(Instant::now());
        live.quit();
    });
    assert!(matches!(ended.exit, Ok(Exit::Asked)), "{:?}", ended.exit);
    assert!(ends.unwrap().elapsed() < SOON);
}

/// A guest that lets its device master the bus at once. The other device is refused.
fn nothing_is_written_before_all_are_open() {
    let first = FakeDevice::new().into_arc();
    let second = DeviceConfig {
        address: "0000:02:00.0".into(),
        ..DeviceConfig::default()
    };
    let other = FakeDevice::new().into_arc();
    let opens = Opens::new(&[(&first, config()), (&other, second)], None);
    let mut g = Asm::new();
    g.print("looks\n")
        .command(MEMORY | MASTER)
        .cfg_show(SLOT, COMMAND);
    g.power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        waits(live, "0");
        opens.fail();
    });
    check_refused(ended.exit);
    assert_eq!(u32::from(first.command()) & MASTER, 0);
    assert!(first.calls().is_empty());
}

fn an_add_waits() {
    let (_, opens) = one();
    let mut added = FakeDevice::new();
    added.name = "0000:03:00.0";
    let added = added.into_arc();
    let host = Arc::new(PlugHost::new(&[&added]));
    let mut g = Asm::new();
    g.print("waits\n").wait_key().power_off();
    let vm = Vm::new(g).ports("1,io=on").host(&host).opens(&opens);
    let ended = vm.run_beside(|live| {
        live.wait_for("waits\n");
        thread::scope(|scope| {
            let add = || live.control.add(&request(&[added.name]), &|| false);
            let adding = scope.spawn(add);
            thread::sleep(A_WHILE);
            assert!(host.steps().is_empty(), "{:?}", host.steps());
            opens.open();
            adding.join().unwrap().unwrap();
        });
        live.press_key();
    });
    ended.powered_off();
}

fn an_add_ends_with_its_client_and_with_the_run() {
    let (_, opens) = one();
    let mut added = FakeDevice::new();
    added.name = "0000:03:00.0";
    let added = added.into_arc();
    let host = Arc::new(PlugHost::new(&[&added]));
    let mut g = Asm::new();
    g.print("waits\n").hang();
    let vm = Vm::new(g).ports("1,io=on").host(&host).opens(&opens);
    let ended = vm.run_beside(|live| {
        live.wait_for("waits\n");
        let add = |gone: bool| live.control.add(&request(&[added.name]), &|| gone);
        let refused = add(true).unwrap_err();
        assert!(matches!(refused, AddError::Gone), "{refused}");
        thread::scope(|scope| {
            let adding = scope.spawn(|| add(false));
            thread::sleep(A_WHILE);
            opens.fail();
            let refused = adding.join().unwrap().unwrap_err();
            assert!(matches!(refused, AddError::Ended), "{refused}");
        });
    });
    check_refused(ended.exit);
    assert!(host.steps().is_empty(), "{:?}", host.steps());
}

/// One latch holds for all devices: the wait counts for the first.
fn a_wait_behind_an_empty_port_counts() {
    let (_, opens) = one();
    let mut g = Asm::new();
    g.print("looks\n");
    let port = g.cfg_address((1, 0, 0), 0);
    g.input(Width::Dword, port).print("found\n").power_off();
    let vm = Vm::new(g).ports("1,io=on").opens(&opens).measured();
    let ended = vm.run_beside(|live| {
        waits(live, "found");
        opens.open();
    });
    let waited = Duration::from_micros(ended.report.devices[0].waited_us);
    assert!((A_WHILE..SOON).contains(&waited), "{waited:?}");
    assert_eq!(ended.powered_off(), "looks\nfound\n");
}

fn the_user_ends_a_run_whose_guest_has_ended() {
    let ended = after_the_guest_has_ended(|live, _| live.quit());
    assert!(matches!(ended.exit, Ok(Exit::Asked)), "{:?}", ended.exit);
}
