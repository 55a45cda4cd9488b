//! What a guest's reboot does to its devices, in which order, and which messages there are.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID, PM};
use crate::irq_code::ENABLE;
use crate::losses::codes_of;
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT};
use crate::reset_kinds::{Outcome, Resets};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    one_hot_reset_for_all_of_a_bus,
    a_reset_of_the_bus_is_preferred_to_power,
    a_full_reset_costs_the_start_nothing,
    a_device_that_is_dead_after_its_reset_is_removed,
    a_failed_reset_is_tried_with_the_bus,
    no_hot_reset_of_what_is_not_ours,
    a_failed_reset_is_said,
    a_sleeper_is_woken_and_quiesced,
    a_failed_hot_reset_is_said_once,
];

/// The two functions of a bus, which a hot reset resets. A loss is told once for each name, so each
/// test has a bus of its own.
type Bus = &'static [&'static str; 2];

fn only_hot(bus: Bus) -> Resets {
    Resets {
        own: Outcome::Absent,
        by_power: false,
        hot: Outcome::Works,
        bus,
    }
}
/// A dword of RAM that no boot overwrites.
const BOOTS: u32 = 0x6_0000;

impl FakeDevice {
    /// The device has no reset.
    pub fn no_reset(mut self) -> Self {
        self.resets = Resets::NONE;
        self
    }
}

/// Calls to all devices, in order.
type Log = Arc<Mutex<Vec<(&'static str, Call)>>>;

/// A device that adds its calls to a common log.
fn device(name: &'static str, log: &Log, resets: Resets) -> Arc<FakeDevice> {
    let log = Arc::clone(log);
    let mut device =
        FakeDevice::new().on_call(move |_, call| log.lock().unwrap().push((name, call.clone())));
    device.name = name;
    device.resets = resets;
    device.into_arc()
}

/// All log messages, as a terminal shows them.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a guest that reboots once and leaves everything of its devices on. Returns the warnings and
/// errors.
fn reboot(devices: &[&Arc<FakeDevice>]) -> Vec<String> {
    let mut g = Asm::new();
    let again = g.label();
    g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(again);
    g.command(MEMORY | MASTER).msix_control(ENABLE);
    if devices.len() > 1 {
        g.cfg_write(SLOT + 1, COMMAND, Width::Word, MEMORY | MASTER);
    }
    g.reset();
    g.bind(again);
    g.cfg_show(SLOT, 0).cfg_show(SLOT, COMMAND).power_off();
    let vm = devices
        .iter()
        .fold(Vm::new(g), |vm, device| vm.device(device));
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(move || writer.clone())
        .finish();
    // Resets happen on the thread that runs the VM, which is this one.
    let ended = tracing::subscriber::with_default(subscriber, || vm.run());
    assert_eq!(ended.numbers(), [ID, 0x0010_0000]);
    let said = said.0.lock().unwrap();
    let lines = String::from_utf8_lossy(&said);
    lines.lines().map(str::to_string).collect()
}

fn position(log: &Log, call: &Call) -> Vec<usize> {
    let log = log.lock().unwrap();
    let found = log.iter().enumerate().filter(|(_, (_, c))| c == call);
    found.map(|(at, _)| at).collect()
}

/// Once before the first boot, and once at the reboot.
fn one_hot_reset_for_all_of_a_bus() {
    const BUS: Bus = &["0000:0a:00.0", "0000:0a:00.1"];
    let log = Log::default();
    let first = device(BUS[0], &log, only_hot(BUS));
    let second = device(BUS[1], &log, only_hot(BUS));
    assert_eq!(reboot(&[&first, &second]), [] as [&str; 0]);
    let hot = position(&log, &Call::HotReset);
    assert_eq!((hot.len(), position(&log, &Call::Reset).len()), (2, 0));
    // Both are quiesced before the reset: no interrupts, no decode, no bus mastering.
    let log = log.lock().unwrap();
    let off = (BUS[0], Call::Disable(Irq::Msix));
    assert!(
        !log[..hot[0]].contains(&off) && log[..hot[1]].contains(&off),
        "{log:?}"
    );
    for (at, name) in hot.iter().flat_map(|at| BUS.map(|name| (*at, name))) {
        let last = log[..at].iter().rev().find_map(|(of, call)| match call {
            Call::Config(4, data) if *of == name => Some(data.as_slice()),
            _ => None,
        });
        assert_eq!(last, Some(&[0, 0][..]), "{name}: {:?}", &log[..at]);
    }
}

/// D3hot and back is a reset only where the bus cannot be reset. Opening resets a device by its own
/// reset, so there is none of these before the first boot.
fn a_reset_of_the_bus_is_preferred_to_power() {
    const BUS: Bus = &["0000:0b:00.0", "0000:0b:00.1"];
    let resets = |bus: &'static [&'static str], own, hot| Resets {
        own,
        by_power: true,
        hot,
        bus,
    };
    let works = Outcome::Works;
    for (resets, hot, own) in [
        (resets(&["0000:0b:00.0"], works, works), 2, 0),
        (resets(BUS, works, works), 0, 1),
        (resets(&[], works, Outcome::Absent), 0, 1),
        (resets(&["0000:0b:00.0"], works, Outcome::Fails), 2, 1),
    ] {
        let log = Log::default();
        let only = device(BUS[0], &log, resets);
        assert_eq!(reboot(&[&only]), [] as [&str; 0]);
        let counts = [Call::HotReset, Call::Reset].map(|call| position(&log, &call).len());
        assert_eq!(counts, [hot, own], "{:?}", resets.bus);
    }
}

/// The kernel has reset a device with a full reset of its own when the device was opened.
fn a_full_reset_costs_the_start_nothing() {
    const BUS: Bus = &["0000:0c:00.0", "0000:0c:00.1"];
    let log = Log::default();
    let resets = Resets {
        bus: &["0000:0c:00.0"],
        ..Resets::default()
    };
    let only = device(BUS[0], &log, resets);
    assert_eq!(reboot(&[&only]), [] as [&str; 0]);
    let counts = [Call::HotReset, Call::Reset].map(|call| position(&log, &call).len());
    assert_eq!(counts, [0, 1]);
}

/// One device has a function reset that does not work.
fn a_failed_reset_is_tried_with_the_bus() {
    const NAME: &str = "0000:0d:00.0";
    let log = Log::default();
    let resets = Resets {
        own: Outcome::Fails,
        bus: &[NAME],
        ..Resets::default()
    };
    let only = device(NAME, &log, resets);
    assert_eq!(reboot(&[&only]), [] as [&str; 0]);
    let (own, hot) = (
        position(&log, &Call::Reset),
        position(&log, &Call::HotReset),
    );
    assert_eq!((own.len(), hot.len()), (1, 1));
    assert!(own < hot);
}

fn no_hot_reset_of_what_is_not_ours() {
    const BUS: Bus = &["0000:0e:00.0", "0000:0e:00.1"];
    let log = Log::default();
    let only = device(BUS[0], &log, only_hot(BUS));
    let said = reboot(&[&only]);
    assert_eq!(position(&log, &Call::HotReset).len(), 0);
    // The message comes at the start, not at each reboot.
    assert_eq!(said.len(), 1, "{said:?}");
    for word in [
        BUS[0],
        BUS[1],
        "not this guest's",
        "not reset",
        "[no-reset]",
        "hint: ",
    ] {
        assert!(said[0].contains(word), "{said:?}");
    }
}

/// A reset that returns success, after which the registers read as all ones. The reset of the bus
/// helps, where there is one.
fn a_device_that_is_dead_after_its_reset_is_removed() {
    const BUS: Bus = &["0000:0f:00.0", "0000:0f:00.1"];
    const ALONE: &[&str] = &["0000:0f:00.1"];
    for (name, bus, shown, codes) in [
        (BUS[0], &[][..], u32::MAX, &["device-dead"][..]),
        (BUS[1], ALONE, ID, &[]),
    ] {
        let mut device = FakeDevice::new();
        device.name = name;
        device.resets = Resets {
            own: Outcome::Kills,
            bus,
            ..Resets::default()
        };
        let device = device.into_arc();
        let mut g = Asm::new();
        let again = g.label();
        g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(again).reset();
        g.bind(again);
        g.cfg_show(SLOT, 0).power_off();
        assert_eq!(Vm::new(g).device(&device).run().numbers(), [shown]);
        assert_eq!(device.count(&Call::HotReset), bus.len());
        assert_eq!(codes_of(name), codes);
    }
}

/// The host's kernel may restore COMMAND when the device enters D0, so COMMAND is cleared after
/// that as well.
fn a_sleeper_is_woken_and_quiesced() {
    let log = Log::default();
    let device = device("0000:10:00.0", &log, Resets::default());
    let mut g = Asm::new();
    let again = g.label();
    g.inc32(BOOTS).load32(BOOTS).cmp_eax(2).je(again);
    g.command(MEMORY | MASTER);
    g.cfg_write(SLOT, PM + 4, Width::Word, 3).reset();
    g.bind(again);
    g.power_off();
    Vm::new(g).device(&device).run();
    let reset = position(&log, &Call::Reset)[0];
    let log = log.lock().unwrap();
    let last = |call: Call| log[..reset].iter().rposition(|(_, c)| *c == call);
    let woken = last(Call::Config(u64::from(PM) + 4, vec![0, 0])).expect("it is woken");
    let quiesced = last(Call::Config(COMMAND.into(), vec![0, 0])).expect("it is quiesced");
    assert!(woken < quiesced, "{:?}", &log[..reset]);
}

fn a_failed_reset_is_said() {
    const NAME: &str = "0000:11:00.0";
    let log = Log::default();
    let resets = Resets {
        own: Outcome::Fails,
        ..Resets::default()
    };
    let device = device(NAME, &log, resets);
    let said = reboot(&[&device]);
    assert_eq!(said.len(), 1, "{said:?}");
    for word in [
        "WARN",
        NAME,
        "(VFIO_DEVICE_RESET)",
        "what the last driver left in",
        "[reset-failed]",
    ] {
        assert!(said[0].contains(word), "{said:?}");
    }
}

/// The first failure is that before the first boot: the device has no other reset.
fn a_failed_hot_reset_is_said_once() {
    const BUS: Bus = &["0000:12:00.0", "0000:12:00.1"];
    let log = Log::default();
    let resets = Resets {
        hot: Outcome::Fails,
        ..only_hot(BUS)
    };
    let (first, second) = (device(BUS[0], &log, resets), device(BUS[1], &log, resets));
    let said = reboot(&[&first, &second]);
    assert_eq!(position(&log, &Call::HotReset).len(), 2);
    assert_eq!(said.len(), 2, "{said:?}");
    for (line, words) in [
        (0, [BUS[0], "[no-reset]"]),
        (
            1,
            [
                "the guest finds what the last driver left in 0000:12:00.0 and 0000:12:00.1",
                "[reset-failed]",
            ],
        ),
    ] {
        for word in words.into_iter().chain(["VFIO_DEVICE_PCI_HOT_RESET"]) {
            assert!(said[line].contains(word), "{said:?}");
        }
    }
}
