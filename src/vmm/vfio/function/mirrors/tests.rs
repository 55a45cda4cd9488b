//! Mirrors of made-up devices that have the IDs of real ones.

use std::sync::Mutex;

use super::*;
use crate::vfio::device::{CONFIG_REGION, Device};
use crate::vfio::function::test_device::TestDevice;

/// What is behind the mirrors: notes each access, and answers a read by its kind.
#[derive(Default)]
struct Log {
    calls: Mutex<Vec<(&'static str, u64, Vec<u8>)>>,
    /// What an address port holds.
    address: Mutex<u32>,
}

impl Log {
    fn note(&self, kind: &'static str, at: u64, access: Access<'_>, answer: u8) {
        let data = match access {
            Access::Read(data) => {
                data.fill(answer);
                Vec::new()
            }
            Access::Write(data) => data.to_vec(),
        };
        self.calls.lock().unwrap().push((kind, at, data));
    }

    fn take(&self) -> Vec<(&'static str, u64, Vec<u8>)> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Behind for Log {
    fn config(&self, register: u16, access: Access<'_>) {
        self.note("config", register.into(), access, 0xc0);
    }

    fn table(&self, offset: u64, access: Access<'_>) {
        self.note("table", offset, access, 0x7a);
    }

    /// The table is at 0xb9_0000 of BAR 0.
    fn is_emulated(&self, bar: usize, offset: u64, len: usize) -> bool {
        bar == 0 && touches(offset, len, 0xb9_0000, 0x1000)
    }

    fn register(&self, bar: usize, offset: u64, access: Access<'_>) {
        match access {
            Access::Read(data) if (bar, offset, data.len()) == (5, 8, 4) => {
                data.copy_from_slice(&self.address.lock().unwrap().to_le_bytes());
            }
            access => self.note(if bar == 5 { "port" } else { "BAR" }, offset, access, 0xba),
        }
    }
}

fn write(mirrors: &Mirrors, log: &Log, bar: usize, at: u64, data: &[u8]) {
    mirrors.access(log, bar, at, Access::Write(data));
}

fn read(mirrors: &Mirrors, log: &Log, bar: usize, at: u64) -> u32 {
    let mut data = [0; 4];
    mirrors.access(log, bar, at, Access::Read(&mut data));
    u32::from_le_bytes(data)
}

/// A device with IDs, a class, and MSI at 0x68.
fn device(vendor: u16, id: u16, class: u8) -> TestDevice {
    let device = TestDevice::new()
        .with_region(0, 0x100_0000, &[(0, 0x100_0000)])
        .with_region(2, 0x1000, &[(0, 0x1000)])
        .with_region(5, 0x80, &[]);
    let put = |at, data: &[u8]| device.write(CONFIG_REGION, at, data).unwrap();
    put(0, &vendor.to_le_bytes());
    put(2, &id.to_le_bytes());
    put(6, &[0x10]);
    put(0x0b, &[class]);
    put(0x34, &[0x68]);
    put(0x68, &[0x05, 0x00, 0x80, 0x00]);
    device
}

fn find(device: &TestDevice) -> Mirrors {
    let mut snapshot = [0; 256];
    device.read(CONFIG_REGION, 0, &mut snapshot).unwrap();
    Mirrors::find(device, &snapshot)
}

#[test]
fn a_copy_of_configuration_space_is_the_guests() {
    let gpu = device(0x10de, 0x1b80, 3).with_register(0, 0x8_8000, 0x1b80_10de);
    let (mirrors, log) = (find(&gpu), Log::default());
    assert_eq!(gpu.config(4), 0, "decoding is off again");
    assert_eq!(mirrors.ranges(0), [(0x8_8000, 0x1000)]);
    // COMMAND and a BAR are emulated.
    assert!(mirrors.touch(0, 0x8_8004, 4) && !mirrors.touch(0, 0x8_7ffc, 4));
    write(&mirrors, &log, 0, 0x8_8004, &[6, 0]);
    assert_eq!(log.take(), [("config", 4, vec![6, 0])]);
    assert_eq!(read(&mirrors, &log, 0, 0x8_8010), 0xc0c0_c0c0);
    log.take();
    // Registers of no capability, and the ID of MSI, acknowledge an interrupt.
    write(&mirrors, &log, 0, 0x8_8704, &[0xff]);
    write(&mirrors, &log, 0, 0x8_8068, &[0xff]);
    write(&mirrors, &log, 0, 0x8_8068, &[0xff, 0, 1, 0]);
    assert_eq!(
        log.take(),
        [
            ("BAR", 0x8_8704, vec![0xff]),
            ("BAR", 0x8_8068, vec![0xff]),
            ("BAR", 0x8_8068, vec![0xff, 0]),
            ("config", 0x6a, vec![1, 0]),
        ]
    );
    // An access across the edge.
    write(&mirrors, &log, 0, 0x8_7ffe, &[1, 2, 3, 4]);
    assert_eq!(
        log.take(),
        [("BAR", 0x8_7ffe, vec![1, 2]), ("config", 0, vec![3, 4])]
    );
}

#[test]
fn copies_are_found_by_what_they_show() {
    let id = 0x2330_10de;
    let newer = device(0x10de, 0x2330, 3)
        .with_register(0, 0x8_8000, 0xbad0_0100)
        .with_register(0, 0x9_2000, id);
    assert_eq!(find(&newer).ranges(0), [(0x9_2000, 0x1000)]);
    let older = device(0x10de, 0x2330, 3)
        .with_register(0, 0x8_8000, id)
        .with_register(0, 0x1800, id)
        .with_register(0, 0x8_a000, 0x0e0f_10de);
    let mirrors = find(&older);
    let copies = [(0x8_8000, 0x1000), (0x1800, 0x100), (0x8_a000, 0x1000)];
    assert_eq!(mirrors.ranges(0), copies);
    // The sound function may be another guest's.
    let log = Log::default();
    write(&mirrors, &log, 0, 0x8_a010, &[0; 4]);
    assert_eq!(read(&mirrors, &log, 0, 0x8_a010), 0xbaba_baba);
    assert_eq!(log.take(), [("BAR", 0x8_a010, vec![])]);
    // The sound function itself, and other vendors, have none.
    assert!(find(&device(0x10de, 0x0e0f, 4)).ranges(0).is_empty());
    assert!(find(&device(0x1002, 0x2330, 3)).ranges(0).is_empty());
}

#[test]
fn ports_lead_to_the_copy() {
    let gpu = device(0x10de, 0x1b80, 3).with_register(0, 0x8_8000, 0x1b80_10de);
    let (mirrors, log) = (find(&gpu), Log::default());
    write(&mirrors, &log, 5, 8, &[0x04, 0x80, 0x08, 0]);
    assert_eq!(log.take(), [("port", 8, vec![0x04, 0x80, 0x08, 0])]);
    *log.address.lock().unwrap() = 0x8_8004;
    write(&mirrors, &log, 5, 0xc, &[6, 0, 0, 0]);
    assert_eq!(log.take(), [("config", 4, vec![6, 0, 0, 0])]);
    assert_eq!(read(&mirrors, &log, 5, 0xc), 0xc0c0_c0c0);
    // Another register of BAR 0 is reached by the port.
    *log.address.lock().unwrap() = 0x100;
    log.take();
    write(&mirrors, &log, 5, 0xc, &[1, 2, 3, 4]);
    assert_eq!(log.take(), [("port", 0xc, vec![1, 2, 3, 4])]);
    // The MSI-X table is reached as in its BAR.
    *log.address.lock().unwrap() = 0xb9_0000;
    write(&mirrors, &log, 5, 0xc, &[1, 2, 3, 4]);
    assert_eq!(log.take(), [("BAR", 0xb9_0000, vec![1, 2, 3, 4])]);
}

#[test]
fn the_window_shows_the_guests_table() {
    let nic = device(0x10ec, 0x8168, 2);
    let (mirrors, log) = (find(&nic), Log::default());
    assert_eq!(mirrors.ranges(2), [(0x70, 8)]);
    assert!(
        mirrors.touch(0, 0x74, 4),
        "the ports are the same registers"
    );
    // A read of the first entry.
    write(&mirrors, &log, 2, 0x74, &0x0001_f000u32.to_le_bytes());
    assert_eq!(read(&mirrors, &log, 2, 0x74), 0x8001_f000);
    assert_eq!(read(&mirrors, &log, 2, 0x70), 0x7a7a_7a7a);
    let calls = log.take();
    assert!(
        calls.iter().all(|call| (call.0, call.1) == ("table", 0)),
        "{calls:x?}"
    );
    // A write of the message of the second entry. The device does not get the address.
    write(&mirrors, &log, 2, 0x70, &[0x45, 0, 0, 0]);
    write(&mirrors, &log, 2, 0x74, &0x8001_f018u32.to_le_bytes());
    assert_eq!(log.take(), [("table", 0x18, vec![0x45, 0, 0, 0])]);
    // Byte by byte, the device never gets an address of the table.
    write(&mirrors, &log, 2, 0x74, &0x8000_f000u32.to_le_bytes());
    log.take();
    for (at, byte) in [(0x74, 0x08), (0x76, 0x01), (0x77, 0x80)] {
        write(&mirrors, &log, 2, at, &[byte]);
    }
    let calls = log.take();
    assert_eq!(
        calls.iter().filter(|call| call.0 == "BAR").count(),
        1,
        "{calls:x?}"
    );
    // Other uses of the window are the device's.
    write(&mirrors, &log, 2, 0x74, &0x8000_f1bcu32.to_le_bytes());
    assert_eq!(read(&mirrors, &log, 2, 0x70), 0xbaba_baba);
    assert_eq!(log.take().len(), 2);
}

#[test]
fn an_integrated_gpu_hides_the_host_bridge() {
    let gpu = device(0x8086, 0x9a49, 3).with_name("0000:00:02.0");
    let (mirrors, log) = (find(&gpu), Log::default());
    assert_eq!(read(&mirrors, &log, 0, 0x10_80c0), 0);
    assert_eq!(read(&mirrors, &log, 0, 0x10_82c0), 0);
    write(&mirrors, &log, 0, 0x10_80c0, &[1, 2, 3, 4]);
    assert_eq!(log.take(), []);
    assert_eq!(read(&mirrors, &log, 0, 0x10_8040), 0xc0c0);
    assert_eq!(log.take(), [("config", 0x50, vec![])]);
    assert!(!mirrors.touch(0, 0x10_7ffc, 4) && !mirrors.touch(0, 0x10_9000, 4));
    // The same GPU as a card.
    assert!(find(&device(0x8086, 0x56a0, 3)).ranges(0).is_empty());
}
