//! What a guest's reboot does to its devices, in which order, and which messages there are.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use vmm::vfio::device::Irq;

use crate::Test;
use crate::common::asm::{Asm, Width};
use crate::device::{Call, FakeDevice, ID, PM};
use crate::irq_code::ENABLE;
use crate::pci::{COMMAND, MASTER, MEMORY, SLOT};
use crate::reset_kinds::{Outcome, Resets};
use crate::vm::Vm;

pub const TESTS: &[Test] = tests![
    one_hot_reset_for_all_of_a_bus,
    a_failed_reset_is_tried_with_the_bus,
    no_hot_reset_of_what_is_not_ours,
    a_failed_reset_is_said,
    a_sleeper_is_woken_and_quiesced,
    a_failed_hot_reset_is_said_once,
];

const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:01:00.1";
const BUS: &[&str] = &[FIRST, SECOND];
const ONLY_HOT: Resets = Resets {
    own: Outcome::Absent,
    hot: Outcome::Works,
    bus: BUS,
};
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

fn one_hot_reset_for_all_of_a_bus() {
    let log = Log::default();
    let first = device(FIRST, &log, ONLY_HOT);
    let second = device(SECOND, &log, ONLY_HOT);
    assert_eq!(reboot(&[&first, &second]), [] as [&str; 0]);
    let hot = position(&log, &Call::HotReset);
    assert_eq!((hot.len(), position(&log, &Call::Reset).len()), (1, 0));
    // Both are quiesced before the reset: no interrupts, no decode, no bus mastering.
    let log = log.lock().unwrap();
    let before = &log[..hot[0]];
    assert!(
        before.contains(&(FIRST, Call::Disable(Irq::Msix))),
        "{before:?}"
    );
    for name in BUS {
        let last = before.iter().rev().find_map(|(of, call)| match call {
            Call::Config(4, data) if of == name => Some(data.as_slice()),
            _ => None,
        });
        assert_eq!(last, Some(&[0, 0][..]), "{name}: {before:?}");
    }
}

/// One device has a function reset that does not work.
fn a_failed_reset_is_tried_with_the_bus() {
    let log = Log::default();
    let resets = Resets {
        own: Outcome::Fails,
        bus: &[FIRST],
        ..Resets::default()
    };
    let only = device(FIRST, &log, resets);
    assert_eq!(reboot(&[&only]), [] as [&str; 0]);
    let (own, hot) = (
        position(&log, &Call::Reset),
        position(&log, &Call::HotReset),
    );
    assert_eq!((own.len(), hot.len()), (1, 1));
    assert!(own < hot);
}

fn no_hot_reset_of_what_is_not_ours() {
    let log = Log::default();
    let only = device(FIRST, &log, ONLY_HOT);
    let said = reboot(&[&only]);
    assert_eq!(position(&log, &Call::HotReset).len(), 0);
    // The message comes at the start, not at each reboot.
    assert_eq!(said.len(), 1, "{said:?}");
    for word in [FIRST, SECOND, "not this guest's", "leaves it as it is"] {
        assert!(said[0].contains(word), "{said:?}");
    }
}

/// The host's kernel may restore COMMAND when the device enters D0, so COMMAND is cleared after
/// that as well.
fn a_sleeper_is_woken_and_quiesced() {
    let log = Log::default();
    let device = device(FIRST, &log, Resets::default());
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
    let log = Log::default();
    let resets = Resets {
        own: Outcome::Fails,
        ..Resets::default()
    };
    let device = device(FIRST, &log, resets);
    let said = reboot(&[&device]);
    assert_eq!(said.len(), 1, "{said:?}");
    for word in ["ERROR", FIRST, "VFIO_DEVICE_RESET failed", "as it left it"] {
        assert!(said[0].contains(word), "{said:?}");
    }
}

fn a_failed_hot_reset_is_said_once() {
    let log = Log::default();
    let resets = Resets {
        hot: Outcome::Fails,
        ..ONLY_HOT
    };
    let (first, second) = (device(FIRST, &log, resets), device(SECOND, &log, resets));
    let said = reboot(&[&first, &second]);
    assert_eq!(position(&log, &Call::HotReset).len(), 1);
    assert_eq!(said.len(), 1, "{said:?}");
    for word in [
        "ERROR",
        FIRST,
        SECOND,
        "VFIO_DEVICE_PCI_HOT_RESET failed",
        "as it left it",
    ] {
        assert!(said[0].contains(word), "{said:?}");
    }
}
