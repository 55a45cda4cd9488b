//! What ends the opening of devices beside the guest, and what waits for it: the user, a client
//! that has gone, a device that vanishes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pci::addr::Range;
use vmm::machine::Exit;
use vmm::memory::dma_mapper::DmaMapper;
use vmm::plug::{Removal, RemoveError, RemovedBy};
use vmm::vfio::device::Irq;
use vmm::vfio::kernel_calls::opener_here;
use vmm::vfio::opener::Opener;

use crate::Test;
use crate::common::asm::Asm;
use crate::device::{Call, FakeDevice};
use crate::opening::{A_WHILE, config, id, looks};
use crate::pci::SLOT;
use crate::plug_guest::{events, forced, removed, wait_for};
use crate::vm::{Live, Opens, Vm, eventually};

pub const TESTS: &[Test] = tests![
    the_user_ends_a_reset_that_waits_for_devices,
    the_user_ends_a_slow_reset,
    the_user_ends_a_removal_that_waits,
    a_removal_ends_with_its_client,
    a_removal_comes_after_the_opening,
    a_device_that_vanishes_ends_the_run_with_a_sentence,
    a_device_that_vanishes_before_the_others_are_open,
    the_host_asks_for_a_device_that_is_being_attached,
    memory_is_unmapped_before_a_device_that_is_refused_closes,
];

/// The longest that a made-up call takes: more than any test, and less than its limit.
const LONG: Duration = Duration::from_secs(40);

/// A call that takes long, unless the user ends the run.
struct Slow {
    opener: Arc<Opener>,
    begun: AtomicBool,
    /// The user has ended it.
    ended: AtomicBool,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            opener: opener_here(),
            begun: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    /// The call, as the opener makes it.
    fn call(&self) {
        self.begun.store(true, Ordering::Release);
        let begun = Instant::now();
        while begun.elapsed() < LONG && !self.opener.gives_up() {
            thread::sleep(Duration::from_millis(1));
        }
        let ended = self.opener.gives_up();
        self.ended.store(ended, Ordering::Release);
    }

    fn wait_until_begun(&self) {
        eventually("the call begins", || self.begun.load(Ordering::Acquire));
    }

    #[track_caller]
    fn check_ended(&self, exit: &Result<Exit, vmm::machine::MachineError>) {
        assert!(matches!(exit, Ok(Exit::Asked)), "{exit:?}");
        assert!(self.ended.load(Ordering::Acquire), "the user was not heard");
    }
}

/// A guest that resets itself when a key is pressed.
fn resets_at_a_key() -> Asm {
    let mut g = Asm::new();
    g.print("boots\n").wait_key().reset();
    g
}

/// A device that is attached beside the guest, which is reset meanwhile.
fn the_user_ends_a_reset_that_waits_for_devices() {
    let slow = Slow::new();
    let attaches = Arc::clone(&slow);
    let device = FakeDevice::new().on_call(move |_, call| {
        if matches!(call, Call::Events(Irq::Error, ..)) {
            attaches.call();
        }
    });
    let opens = Opens::new(&[(&device.into_arc(), config())], None);
    let vm = Vm::new(resets_at_a_key())
        .opener(&slow.opener)
        .opens(&opens);
    let ended = vm.run_beside(|live| {
        live.wait_for("boots\n");
        opens.open();
        slow.wait_until_begun();
        live.press_key();
        // The reset waits, as far as that is seen.
        thread::sleep(A_WHILE);
        assert_eq!(live.count_of("boots"), 1);
        live.quit();
    });
    slow.check_ended(&ended.exit);
    assert_eq!(ended.text, "boots\n");
}

fn the_user_ends_a_slow_reset() {
    let slow = Slow::new();
    let resets = Arc::clone(&slow);
    let device = FakeDevice::new().on_call(move |_, call| {
        if *call == Call::Reset {
            resets.call();
        }
    });
    let device = device.into_arc();
    let vm = Vm::new(resets_at_a_key())
        .opener(&slow.opener)
        .device(&device);
    let ended = vm.run_beside(|live| {
        live.press_key();
        slow.wait_until_begun();
        live.quit();
    });
    slow.check_ended(&ended.exit);
    assert_eq!(ended.text, "boots\n");
}

fn remove(live: &Live, gone: bool) -> Result<Removal, RemoveError> {
    live.control.remove(&forced(), &|| gone)
}

fn one() -> (Arc<FakeDevice>, Arc<Opens>) {
    let device = FakeDevice::new().into_arc();
    let opens = Opens::new(&[(&device, config())], None);
    (device, opens)
}

fn runs() -> Asm {
    let mut g = Asm::new();
    g.print("runs\n").hang();
    g
}

fn the_user_ends_a_removal_that_waits() {
    let (_, opens) = one();
    let ended = Vm::new(runs()).opens(&opens).run_beside(|live| {
        live.wait_for("runs\n");
        thread::scope(|scope| {
            let removing = scope.spawn(|| remove(live, false));
            thread::sleep(A_WHILE);
            assert!(!removing.is_finished());
            live.quit();
            let refused = removing.join().unwrap().unwrap_err();
            assert!(matches!(refused, RemoveError::Ended), "{refused}");
        });
    });
    assert!(matches!(ended.exit, Ok(Exit::Asked)), "{:?}", ended.exit);
}

fn a_removal_ends_with_its_client() {
    let (device, opens) = one();
    let ended = Vm::new(runs()).opens(&opens).run_beside(|live| {
        live.wait_for("runs\n");
        let refused = remove(live, true).unwrap_err();
        assert!(matches!(refused, RemoveError::Gone), "{refused}");
        live.quit();
    });
    assert!(matches!(ended.exit, Ok(Exit::Asked)), "{:?}", ended.exit);
    assert!(device.calls().is_empty());
}

fn a_removal_comes_after_the_opening() {
    let (_, opens) = one();
    let mut g = Asm::new();
    g.print("waits\n").wait_key().cfg_show(SLOT, 0).power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("waits\n");
        thread::scope(|scope| {
            let removing = scope.spawn(|| remove(live, false));
            thread::sleep(A_WHILE);
            assert!(!removing.is_finished());
            opens.open();
            assert_eq!(removing.join().unwrap().unwrap(), Removal::Removed);
        });
        live.press_key();
    });
    assert_eq!(ended.powered_off(), "waits\nffffffff\n");
}

/// A device that does not answer any more once it is open, while the guest waits for it.
fn a_device_that_vanishes_ends_the_run_with_a_sentence() {
    let (device, opens) = one();
    device.deaf.store(true, Ordering::Relaxed);
    let mut g = Asm::new();
    looks(&mut g).power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("looks\n");
        opens.open();
    });
    let e = ended.exit.unwrap_err();
    assert!(e.to_string().contains(device.name), "{e}");
    assert_eq!(ended.text, "looks\n");
}

/// A device that does not answer any more while the next one is being attached. The guest finds
/// the other, and goes on.
fn a_device_that_vanishes_before_the_others_are_open() {
    let first = FakeDevice::new().into_arc();
    let gone = Arc::clone(&first);
    let mut second = FakeDevice::new().on_call(move |_, call| {
        if matches!(call, Call::Events(Irq::Error, ..)) {
            gone.deaf.store(true, Ordering::Relaxed);
        }
    });
    second.name = "0000:02:00.0";
    let second = second.into_arc();
    let other = vmm::config::device::DeviceConfig {
        address: second.name.into(),
        ..config()
    };
    let opens = Opens::new(&[(&first, config()), (&second, other)], None);
    let mut g = Asm::new();
    g.print("looks\n").cfg_show(SLOT + 1, 0).power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("looks\n");
        opens.open();
    });
    assert_eq!(ended.powered_off(), id());
}

/// The host asks as soon as it can be heard. It gets the device once the opening is over.
fn the_host_asks_for_a_device_that_is_being_attached() {
    let asked = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&asked);
    let device = FakeDevice::new().on_call(move |device, call| {
        // The first: closing takes the eventfd away again.
        if matches!(call, Call::Events(Irq::Request, ..)) && !asks.swap(true, Ordering::Relaxed) {
            device.device_event(1);
        }
    });
    let device = device.into_arc();
    let opens = Opens::new(&[(&device, config())], None);
    let mut g = Asm::new();
    g.print("waits\n").wait_key().cfg_show(SLOT, 0).power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("waits\n");
        let seen = events(live);
        opens.open();
        wait_for(&seen, &removed(RemovedBy::Host));
        assert!(asked.load(Ordering::Relaxed));
        live.press_key();
    });
    assert_eq!(ended.powered_off(), "waits\nffffffff\n");
}

/// The IOMMU of a device, which notes whether the device is open when memory is unmapped.
struct Iommu {
    device: Arc<FakeDevice>,
    /// References that others than the machine have.
    others: usize,
    open: Mutex<Vec<bool>>,
}

impl DmaMapper for Iommu {
    fn map(&self, _: u64, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn unmap(&self, _: u64, _: u64) -> io::Result<()> {
        let open = Arc::strong_count(&self.device) > self.others;
        self.open.lock().unwrap().push(open);
        Ok(())
    }

    fn iova_ranges(&self) -> &[Range] {
        &[]
    }
}

/// A container loses its IOMMU with its last device.
fn memory_is_unmapped_before_a_device_that_is_refused_closes() {
    let device = FakeDevice::new().into_arc();
    device.deaf.store(true, Ordering::Relaxed);
    let iommu = Arc::new(Iommu {
        device: Arc::clone(&device),
        // This test's, the IOMMU's and that of the devices that open.
        others: 3,
        open: Mutex::default(),
    });
    let opens = Opens::by_iommu(&device, config(), iommu.clone());
    let mut g = Asm::new();
    looks(&mut g).power_off();
    let ended = Vm::new(g).opens(&opens).run_beside(|live| {
        live.wait_for("looks\n");
        assert_eq!(Arc::strong_count(&device), iommu.others);
        opens.open();
    });
    let e = ended.exit.unwrap_err();
    assert!(e.to_string().contains(device.name), "{e}");
    let open = iommu.open.lock().unwrap().clone();
    assert!(
        !open.is_empty() && open.iter().all(|open| *open),
        "{open:?}"
    );
}
