//! A guest that runs before its RAM is mapped for DMA: only the write that enables bus mastering
//! waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use vmm::memory::dma_ready::DmaReady;

use crate::Test;
use crate::device::FakeDevice;
use crate::pci::{COMMAND, MASTER, MEMORY};
use crate::rig::{AREAS, Rig};

pub const TESTS: &[Test] = tests![
    only_bus_mastering_waits,
    a_stopped_guest_does_not_wait,
    the_host_gets_a_device_that_waits,
];

fn rig() -> (Arc<DmaReady>, Arc<Rig>) {
    let ready = Arc::new(DmaReady::after(1));
    let rig = Rig::at(Arc::clone(&ready), FakeDevice::new(), 64);
    (ready, Arc::new(rig))
}

/// A vCPU that writes to configuration space. A message is sent when the write is done.
fn vcpu(rig: &Arc<Rig>, offset: u16, data: Vec<u8>) -> Receiver<()> {
    let (tell, told) = channel();
    let rig = Arc::clone(rig);
    thread::spawn(move || {
        rig.write(offset, &data);
        tell.send(()).unwrap();
    });
    told
}

fn waits(vcpu: &Receiver<()>) -> bool {
    vcpu.recv_timeout(Duration::from_millis(20)).is_err()
}

fn only_bus_mastering_waits() {
    let on = (MEMORY | MASTER) as u16;
    // The width that Linux uses, and others.
    for (offset, data) in [
        (COMMAND, on.to_le_bytes().to_vec()),
        (COMMAND, vec![on as u8]),
        (COMMAND, vec![on as u8, 0, 0, 0]),
    ] {
        let (ready, rig) = rig();
        rig.command(MEMORY);
        assert_eq!(rig.slots.in_use(), AREAS);
        // The same bit of COMMAND's high byte, which has another meaning.
        rig.write(COMMAND + 1, &[MASTER as u8]);
        let master = vcpu(&rig, offset, data);
        assert!(waits(&master));
        // Another vCPU accesses the same function meanwhile.
        assert_eq!(rig.read(COMMAND, 1), [MEMORY as u8]);
        rig.command(0);
        assert_eq!(rig.slots.in_use(), 0);
        assert_eq!(rig.device.command() & on, 0);
        ready.set_left(0);
        master.recv().unwrap();
        assert_eq!(rig.device.command() & on, on);
        assert_eq!(rig.slots.in_use(), AREAS);
    }
}

fn a_stopped_guest_does_not_wait() {
    let (ready, rig) = rig();
    let master = vcpu(&rig, COMMAND, vec![MASTER as u8]);
    assert!(waits(&master));
    ready.set_stopping(true);
    master.recv().unwrap();
    assert_eq!(u32::from(rig.device.command()) & MASTER, 0);
    ready.set_stopping(false);
    let again = vcpu(&rig, COMMAND, vec![MASTER as u8]);
    assert!(waits(&again));
    ready.set_left(0);
    again.recv().unwrap();
    assert_ne!(u32::from(rig.device.command()) & MASTER, 0);
}

fn the_host_gets_a_device_that_waits() {
    let (ready, rig) = rig();
    let master = vcpu(&rig, COMMAND, vec![MASTER as u8]);
    assert!(waits(&master));
    // The release does not wait.
    rig.release();
    assert_eq!(rig.read(0, 2), [0xff, 0xff]);
    ready.set_left(0);
    master.recv().unwrap();
    assert_eq!(u32::from(rig.device.command()) & MASTER, 0);
}
