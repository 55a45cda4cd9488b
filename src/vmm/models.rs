//! Models of what several threads wait for, run in each order in which the threads can go on
//! (`make models`). A wait that never ends is an error of the model. The code is the program's own,
//! by [`crate::sync`].

use std::io;
use std::sync::Arc;

use loom::thread;
use pci::addr::Range;

use crate::machine::maps::Maps;
use crate::memory::address_space::AddressSpace;
use crate::memory::dma::Dma;
use crate::memory::dma_mapper::DmaMapper;
use crate::memory::dma_ready::DmaReady;
use crate::memory::mapping::{Mapping, PAGE_SIZE};
use crate::memory::region::{Region, RegionKind};
use crate::run_events::RunEvents;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::vcpu::devices_open::DevicesOpen;
use crate::vcpu::pause::PausePoint;

/// Runs a model. Three changes of thread that nothing forces, at most, in each order: bugs with
/// more are rare, and the number of orders grows with each.
fn model(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// RAM becomes ready while a vCPU waits for it.
#[test]
fn a_vcpu_that_waits_for_ram_sees_all_of_it() {
    model(|| {
        let latch = Arc::new(DmaReady::after(2));
        let mapped = Arc::new(AtomicU64::new(0));
        let mapper = thread::spawn({
            let (latch, mapped) = (Arc::clone(&latch), Arc::clone(&mapped));
            move || {
                for left in [1, 0] {
                    mapped.fetch_add(1, Ordering::Relaxed);
                    latch.set_left(left);
                }
                latch.end();
            }
        });
        assert!(latch.wait_ready());
        assert_eq!(mapped.load(Ordering::Relaxed), 2);
        assert_eq!(latch.left(), None);
        mapper.join().unwrap();
    });
}

/// The vCPUs are stopped, or mapping fails, while a vCPU waits for RAM and another thread shows
/// the progress.
#[test]
fn a_stop_and_a_failure_end_all_waits_for_ram() {
    model(|| {
        let latch = Arc::new(DmaReady::after(2));
        let vcpu = thread::spawn({
            let latch = Arc::clone(&latch);
            move || latch.wait_ready()
        });
        let progress = thread::spawn({
            let latch = Arc::clone(&latch);
            move || latch.wait_until_left(0, |_| ())
        });
        latch.set_left(1);
        latch.set_stopping(true);
        assert!(!vcpu.join().unwrap());
        latch.end();
        progress.join().unwrap();
        assert!(latch.is_over());
    });
}

/// A guest's instructions: each adds one while no pause and no stop is asked for.
fn vcpu(point: &PausePoint, counter: &AtomicU64) {
    let _member = point.join();
    loop {
        while !point.leave().load(Ordering::Acquire) {
            counter.fetch_add(1, Ordering::Relaxed);
            // In a model, a loop must let the others go on.
            thread::yield_now();
        }
        if !point.wait() {
            return;
        }
    }
}

#[test]
fn nothing_runs_in_a_pause_and_a_stop_ends_it() {
    model(|| {
        let point = Arc::new(PausePoint::default());
        let counter = Arc::new(AtomicU64::new(0));
        let run = thread::spawn({
            let (point, counter) = (Arc::clone(&point), Arc::clone(&counter));
            move || vcpu(&point, &counter)
        });
        point.pause().unwrap();
        let before = counter.load(Ordering::Relaxed);
        thread::yield_now();
        assert_eq!(counter.load(Ordering::Relaxed), before);
        point.stop();
        run.join().unwrap();
    });
}

/// A client resumes what another has paused; the vCPU goes on in each order.
#[test]
fn a_pause_that_another_ends_leaves_no_vcpu_waiting() {
    model(|| {
        let point = Arc::new(PausePoint::default());
        let counter = Arc::new(AtomicU64::new(0));
        let run = thread::spawn({
            let (point, counter) = (Arc::clone(&point), Arc::clone(&counter));
            move || vcpu(&point, &counter)
        });
        let other = thread::spawn({
            let point = Arc::clone(&point);
            move || point.resume().is_ok()
        });
        let paused = point.pause();
        let resumed = other.join().unwrap();
        assert!(paused.is_ok() || resumed, "only the other ends it");
        if point.is_paused() {
            point.resume().unwrap();
        }
        assert!(!point.leave().load(Ordering::Acquire));
        point.stop();
        run.join().unwrap();
    });
}

/// A vCPU that waits for its device until the latch opens, perhaps for so long that all are frozen.
/// Returns whether it has frozen the others, and whether it was told of the time that was lost.
fn waits_for_its_device(point: &PausePoint, latch: &DevicesOpen, long: bool) -> (bool, bool) {
    let _member = point.join();
    // In a model no time passes: it is over at once.
    let frozen = long && latch.freeze_now();
    assert!(latch.wait());
    let mut told = false;
    while point.leave().load(Ordering::Acquire) {
        assert!(point.wait());
        told = true;
    }
    (frozen, told)
}

/// The devices open while two vCPUs wait for them, of which one has waited for so long that all are
/// frozen. Nobody stays frozen, and who has frozen the others goes on only after it was told.
#[test]
fn a_freeze_ends_when_the_devices_are_open() {
    model(|| {
        let point = Arc::new(PausePoint::default());
        let latch = Arc::new(DevicesOpen::new(&point));
        latch.close();
        let [waits, freezes] = [false, true].map(|long| {
            let (point, latch) = (Arc::clone(&point), Arc::clone(&latch));
            thread::spawn(move || waits_for_its_device(&point, &latch, long))
        });
        latch.open();
        waits.join().unwrap();
        let (frozen, told) = freezes.join().unwrap();
        assert!(told || !frozen, "frozen, and not told");
        assert!(!point.leave().load(Ordering::Acquire));
    });
}

/// The vCPUs are stopped while one waits for its device, and the devices open meanwhile.
#[test]
fn a_stop_ends_a_wait_for_devices_and_a_freeze() {
    model(|| {
        let point = Arc::new(PausePoint::default());
        let latch = Arc::new(DevicesOpen::new(&point));
        latch.close();
        let vcpu = thread::spawn({
            let (point, latch) = (Arc::clone(&point), Arc::clone(&latch));
            move || {
                let _member = point.join();
                latch.freeze_now();
                latch.wait();
                while point.leave().load(Ordering::Acquire) {
                    if !point.wait() {
                        break;
                    }
                }
            }
        });
        let opens = thread::spawn({
            let latch = Arc::clone(&latch);
            move || latch.open()
        });
        point.stop();
        latch.set_stopping(true);
        vcpu.join().unwrap();
        opens.join().unwrap();
        point.begin();
        assert!(!point.leave().load(Ordering::Acquire));
    });
}

/// A client waits for the next boot while the guest resets itself and the run ends.
#[test]
fn a_client_that_waits_for_a_boot_hears_of_it_or_of_the_end() {
    model(|| {
        let events = Arc::new(RunEvents::default());
        events.boot();
        let client = thread::spawn({
            let events = Arc::clone(&events);
            move || (events.wait_for_boot_after(1), events.boots())
        });
        events.boot();
        events.end("poweroff");
        let (ended, boots) = client.join().unwrap();
        assert!(ended.is_some() || boots == 2);
    });
}

/// A container: the bytes that are mapped, and its open devices. Without a device the kernel maps
/// nothing (Documentation/driver-api/vfio.rst, "VFIO Usage Example").
#[derive(Default)]
struct Container {
    mapped: Mutex<u64>,
    devices: AtomicU64,
    /// Devices that are being closed while others stay.
    closing: AtomicU64,
}

impl Container {
    fn mapped(&self) -> u64 {
        *self.mapped.lock().unwrap()
    }
}

impl DmaMapper for Container {
    fn map(&self, _: u64, size: u64, _: u64) -> io::Result<()> {
        assert_ne!(self.devices.load(Ordering::SeqCst), 0, "no device is open");
        assert_eq!(self.closing.load(Ordering::SeqCst), 0, "a device closes");
        let mut mapped = self.mapped.lock().unwrap();
        assert_eq!(*mapped, 0, "mapped twice");
        *mapped += size;
        Ok(())
    }

    fn unmap(&self, _: u64, size: u64) -> io::Result<()> {
        *self.mapped.lock().unwrap() -= size;
        Ok(())
    }

    fn iova_ranges(&self) -> &[Range] {
        &[]
    }
}

struct Host {
    container: Arc<Container>,
    region: Region,
    maps: Maps,
    space: Arc<AddressSpace>,
}

impl Host {
    fn new() -> Arc<Self> {
        let region = Region {
            start: 0,
            size: PAGE_SIZE,
            mapping: Arc::new(Mapping::anonymous(PAGE_SIZE, PAGE_SIZE).unwrap()),
            offset: 0,
            kind: RegionKind::Ram,
            bar: None,
        };
        let space = Arc::new(AddressSpace::new());
        space.add(region.clone()).unwrap();
        Arc::new(Self {
            container: Arc::default(),
            region,
            maps: Maps::new(Arc::clone(&space)),
            space,
        })
    }

    /// A device uses guest memory, as at a start or a hot-plug.
    fn open(&self) -> Arc<Dma> {
        self.container.devices.fetch_add(1, Ordering::SeqCst);
        let mapper = Arc::clone(&self.container) as Arc<dyn DmaMapper>;
        let mut is_new = false;
        let dma = self.maps.join_or_make(&mapper, 1, || {
            is_new = true;
            let mapper = Arc::clone(&mapper);
            Arc::new(Dma::new(mapper, PAGE_SIZE, false, Arc::default()))
        });
        if is_new {
            self.space.subscribe(dma.clone()).unwrap();
        }
        dma
    }

    fn map(&self, dma: &Dma) {
        dma.map_ram(&self.region, 0, PAGE_SIZE).unwrap();
    }

    /// The device goes back to the host.
    fn close(&self, dma: &Arc<Dma>) {
        let devices = &self.container.devices;
        self.maps
            .leave(dma, 1, || _ = devices.fetch_sub(1, Ordering::SeqCst));
    }
}

/// The last device leaves while RAM is still being mapped for it.
#[test]
fn no_ram_is_left_mapped_for_a_device_that_leaves() {
    model(|| {
        let host = Host::new();
        let dma = host.open();
        let mapper = thread::spawn({
            let (host, dma) = (Arc::clone(&host), Arc::clone(&dma));
            move || host.map(&dma)
        });
        host.close(&dma);
        mapper.join().unwrap();
        assert_eq!(host.container.mapped(), 0);
        assert!(host.maps.is_empty());
    });
}

/// One of two devices leaves while RAM is being mapped for both. Its container, or its group, may
/// close with it.
#[test]
fn ram_is_not_mapped_while_one_of_two_devices_closes() {
    model(|| {
        let host = Host::new();
        let dma = host.open();
        assert!(Arc::ptr_eq(&host.open(), &dma));
        let mapper = thread::spawn({
            let (host, dma) = (Arc::clone(&host), Arc::clone(&dma));
            move || host.map(&dma)
        });
        let closing = &host.container.closing;
        host.maps.leave(&dma, 1, || {
            closing.store(1, Ordering::SeqCst);
            thread::yield_now();
            closing.store(0, Ordering::SeqCst);
        });
        mapper.join().unwrap();
        assert_eq!(host.container.mapped(), PAGE_SIZE);
        host.close(&dma);
        assert_eq!(host.container.mapped(), 0);
    });
}

/// A device is added while the last one leaves: its maps are those that are there, or new ones
/// after the old ones have gone.
#[test]
fn a_device_is_added_while_the_last_one_leaves() {
    model(|| {
        let host = Host::new();
        let old = host.open();
        host.map(&old);
        let adds = thread::spawn({
            let host = Arc::clone(&host);
            move || {
                let dma = host.open();
                if !dma.maps().iter().any(|map| map.mapped > 0) {
                    host.map(&dma);
                }
                dma
            }
        });
        host.close(&old);
        let new = adds.join().unwrap();
        assert_eq!(host.container.mapped(), PAGE_SIZE);
        assert_eq!(host.maps.devices(&new), 1);
        assert!(host.maps.close().is_none());
        assert_eq!(host.container.mapped(), 0);
    });
}
