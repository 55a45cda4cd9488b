//! Files of expansion ROMs: what a guest reads at any offset is the file's byte, and ones beyond
//! it; the register's size is the next power of two.

#![no_main]

mod access;

use std::io::Write;
use std::os::fd::AsRawFd;

use access::Access;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pci::bar::Bars;
use pci::decoder::{BarEffect, Decoder};
use pci::rom::{Image, MAX_SIZE, MIN_SIZE, ROM};
use vmm::config::device::RomConfig;
use vmm::vfio::device::RegionInfo;
use vmm::vfio::function::rom::RomSource;
use vmm_sys_util::tempfile::TempFile;

#[derive(Debug, Arbitrary)]
struct Input {
    content: Vec<u8>,
    /// The file goes on with so many zeros.
    zeros: u32,
    /// What a device says of its own ROM.
    region: (u64, bool),
    address: u32,
    reads: Vec<Access>,
}

/// The register answers a sizing as hardware (PCI Express 6.0, 7.5.1.2.4).
fn register(size: u64, address: u32) {
    let none = Bars::decode([0; 6], [0; 6]).expect("no BARs");
    let mut bars = none.with_rom(size).expect("a ROM of this size");
    let expected = size.max(MIN_SIZE).next_power_of_two();
    let mut value = [0; 4];
    bars.write(0x30, &(!1u32).to_le_bytes());
    bars.read(0x30, &mut value);
    let sized = u32::from_le_bytes(value);
    assert_eq!(
        u64::from((!(sized & !0x7ff)).wrapping_add(1)),
        expected,
        "{sized:#x}"
    );
    bars.write(0x30, &(address | 1).to_le_bytes());
    let mut decoder = Decoder::new();
    for effect in decoder.update(&bars, true, false) {
        if let BarEffect::Map { address, .. } = &effect {
            assert_eq!((effect.bar(), address % expected), (ROM, 0));
        }
        decoder.confirm(&effect);
    }
}

fuzz_target!(|input: Input| {
    let mut file = TempFile::new().expect("a file").into_file();
    file.write_all(&input.content).expect("a file");
    let size = input.content.len() as u64 + u64::from(input.zeros) % (MAX_SIZE + 0x1000);
    // Most inputs are short.
    let size = if input.zeros.is_multiple_of(64) {
        size
    } else {
        input.content.len() as u64
    };
    file.set_len(size).expect("a file");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let region = RegionInfo {
        size: input.region.0,
        read: input.region.1,
        ..RegionInfo::default()
    };
    let own = RomSource::Device.size("0000:01:00.0", &region);
    assert!(own == 0 || own == region.size && own <= MAX_SIZE && region.read);
    let source = match RomSource::load(&RomConfig::File(path.into())) {
        Ok(source) => source,
        Err(e) => {
            assert!(size == 0 || size > MAX_SIZE, "{e}");
            assert!(e.hint().contains("romfile="));
            return;
        }
    };
    assert!((1..=MAX_SIZE).contains(&size), "no ROM has {size} bytes");
    assert_eq!(
        source.size("0000:01:00.0", &region),
        size,
        "the file, not the device"
    );
    register(size, input.address);
    let RomSource::Image(image) = &source else {
        panic!("a file is an image");
    };
    assert_eq!(
        image.has_signature(),
        input.content.starts_with(&[0x55, 0xaa])
    );
    check_reads(image, &input, size);
});

fn check_reads(image: &Image, input: &Input, size: u64) {
    for access in &input.reads {
        let mut data = access.bytes();
        // Around the content, around the end, and anywhere.
        let offset = match access.offset % 4 {
            0 => size.saturating_sub(4) + u64::from(access.offset >> 2) % 16,
            1 => u64::MAX - u64::from(access.offset),
            _ => u64::from(access.offset),
        };
        image.read(offset, &mut data);
        for (i, byte) in data.iter().enumerate() {
            let expected = match offset.checked_add(i as u64) {
                Some(at) if at < size => input.content.get(at as usize).copied().unwrap_or(0),
                _ => 0xff,
            };
            assert_eq!(*byte, expected, "offset {offset:#x} + {i}");
        }
    }
}
