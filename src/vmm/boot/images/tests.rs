//! Loads small kernels, whole and damaged, through the interface that the machine uses.

#[path = "../../../../tests/common/kernels.rs"]
mod kernels;

use std::io::Write;
use std::path::Path;

use kernels::{bzimage, elf, put};
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::start_info::hvm_start_info;
use proptest::prelude::*;
use vm_memory::Bytes;
use vmm_sys_util::tempfile::TempFile;

use super::*;
use crate::boot::acpi;
use crate::config::topology::Topology;
use crate::layout::{LOW_PVH_INFO, LOW_ZERO_PAGE};

const MIB: u64 = 1 << 20;
fn file(bytes: &[u8]) -> TempFile {
    let file = TempFile::new().unwrap();
    file.as_file().write_all(bytes).unwrap();
    file
}

fn open(kernel: &[u8]) -> Result<Images, BootError> {
    Images::open(file(kernel).as_path(), None)
}

/// Opens, checks and loads into a guest of `mib` MiB.
fn boot(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    mib: u64,
    cmdline: &str,
) -> Result<(Entry, GuestMemory), BootError> {
    let (kernel, initrd) = (file(kernel), initrd.map(file));
    let images = Images::open(kernel.as_path(), initrd.as_ref().map(TempFile::as_path))?;
    let layout = Layout::new(mib * MIB, 0, 40).unwrap();
    let ranges: Vec<_> = layout
        .ram()
        .map(|r| (GuestAddress(r.start), r.size as usize))
        .collect();
    let memory = GuestMemory::from_ranges(&ranges).unwrap();
    let tables = acpi::build(&layout, &Topology::default()).unwrap();
    let checked = images.check(&layout, cmdline);
    let entry = images.load(&memory, &layout, cmdline, &tables);
    assert!(checked.is_ok() || entry.is_err());
    Ok((entry?, memory))
}

fn read(memory: &GuestMemory, at: u64, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x26c, b"code that is no header");
    let (entry, memory) = boot(&kernel, Some(b"initrd"), 64, "console=ttyS0").unwrap();
    let expected = Entry::Linux64 {
        rip: 0x100_0200,
        zero_page: LOW_ZERO_PAGE,
    };
    assert_eq!(entry, expected);
    assert_eq!(read(&memory, 0x100_0000, 4096), [0x90; 4096]);
    assert_eq!(read(&memory, LOW_CMDLINE, 14), b"console=ttyS0\0");
    let zero_page: boot_params = memory.read_obj(GuestAddress(LOW_ZERO_PAGE)).unwrap();
    let hdr = zero_page.hdr;
    assert_eq!({ hdr.header }, 0x5372_6448);
    assert_eq!(
        (hdr.type_of_loader, { hdr.code32_start }),
        (0xff, 0x100_0000)
    );
    assert_eq!({ hdr.cmd_line_ptr }, 0x2_0000);
    assert_eq!(
        ({ hdr.ramdisk_image }, { hdr.ramdisk_size }),
        (0x3ff_f000, 6)
    );
    assert_eq!({ zero_page.acpi_rsdp_addr }, 0xe_0000);
    assert_eq!((zero_page.e820_entries, zero_page.sentinel), (7, 0));
    assert_eq!(zero_page._pad7, [0; 36]);
    assert_eq!(read(&memory, 0x3ff_f000, 6), b"initrd");
    assert_eq!(read(&memory, 0xe_0000, 8), b"RSD PTR ");
    // f000:fff0 resets the machine: mov dx, 0x602.
    assert_eq!(read(&memory, 0xf_fff0, 3), [0xba, 0x02, 0x06]);
}

#[test]
fn an_initrd_stays_where_the_kernel_reaches() {
    let (_, memory) = boot(&bzimage(), Some(&[1; 5000]), 5 << 10, "").unwrap();
    let zero_page: boot_params = memory.read_obj(GuestAddress(LOW_ZERO_PAGE)).unwrap();
    assert_eq!({ zero_page.hdr.ramdisk_image }, 0x7fff_e000);
}

#[test]
fn a_kernel_that_is_not_relocatable_goes_where_it_must() {
    let mut kernel = bzimage();
    kernel[0x234] = 0;
    put(&mut kernel, 0x258, &0x40_0000u64.to_le_bytes());
    let (entry, _) = boot(&kernel, None, 64, "").unwrap();
    assert!(matches!(entry, Entry::Linux64 { rip: 0x40_0200, .. }));
}

#[test]
fn an_elf_with_a_note_is_entered_by_pvh() {
    let (entry, memory) = boot(&elf(true), Some(b"initrd"), 64, "quiet").unwrap();
    let expected = Entry::Pvh {
        eip: 0x100_0010,
        start_info: LOW_PVH_INFO,
    };
    assert_eq!(entry, expected);
    assert_eq!(read(&memory, 0x100_0000, 32), [0xf4; 32]);
    let info: hvm_start_info = memory.read_obj(GuestAddress(LOW_PVH_INFO)).unwrap();
    assert_eq!(read(&memory, info.cmdline_paddr, 6), b"quiet\0");
    assert_eq!((info.nr_modules, info.rsdp_paddr), (1, 0xe_0000));
}

#[test]
fn an_elf_without_a_note_gets_a_zero_page() {
    let (entry, memory) = boot(&elf(false), None, 64, "").unwrap();
    let expected = Entry::Linux64 {
        rip: 0x100_0000,
        zero_page: LOW_ZERO_PAGE,
    };
    assert_eq!(entry, expected);
    let zero_page: boot_params = memory.read_obj(GuestAddress(LOW_ZERO_PAGE)).unwrap();
    assert_eq!(
        ({ zero_page.hdr.version }, { zero_page.hdr.boot_flag }),
        (0x20c, 0xaa55)
    );
}

#[test]
fn a_second_load_leaves_nothing_of_the_first_guest() {
    let kernel = file(&elf(true));
    let images = Images::open(kernel.as_path(), None).unwrap();
    let layout = Layout::new(64 * MIB, 0, 40).unwrap();
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
    memory
        .write_slice(&[0xaa; 4 << 20], GuestAddress(0x100_0000))
        .unwrap();
    let tables = acpi::build(&layout, &Topology::default()).unwrap();
    for _ in 0..2 {
        images.load(&memory, &layout, "", &tables).unwrap();
        assert_eq!(read(&memory, 0x100_0020, 0x1_0000 - 32), [0; 0x1_0000 - 32]);
        assert_eq!(read(&memory, 0x101_0000, 4), [0xaa; 4]);
    }
}

#[test]
fn paths_that_are_no_kernels() {
    let dir = std::env::temp_dir();
    let missing = dir.join("mini-vmm/no/such/kernel");
    let error = Images::open(&missing, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("there is no kernel at {}", missing.display())
    );
    assert!(error.hint().is_some());
    let error = Images::open(&dir, None).unwrap_err();
    assert!(matches!(
        error,
        BootError::Directory {
            role: Role::Kernel,
            ..
        }
    ));
    let error = Images::open(Path::new("/dev/null"), None).unwrap_err();
    assert!(matches!(error, BootError::NotAFile { .. }));
    for text in [&b""[..], b"\x7f", b"#!/bin/sh\n", &[0; 4096]] {
        let error = open(text).unwrap_err();
        assert!(matches!(error, BootError::NotAKernel(_)), "{error}");
        assert!(
            error
                .to_string()
                .ends_with(" is not a kernel: neither a bzImage nor an ELF image")
        );
    }
}

#[test]
fn initrds_that_are_none() {
    let kernel = file(&bzimage());
    let missing = Images::open(kernel.as_path(), Some(Path::new("/no/such/initrd")));
    assert!(matches!(
        missing,
        Err(BootError::Missing {
            role: Role::Initrd,
            ..
        })
    ));
    let empty = Images::open(kernel.as_path(), Some(file(b"").as_path()));
    assert!(matches!(empty, Err(BootError::EmptyInitrd(_))));
}

#[test]
fn every_prefix_of_a_kernel_is_refused() {
    for whole in [bzimage(), elf(true), elf(false)] {
        for end in (0..whole.len()).step_by(7) {
            let error = open(&whole[..end]).unwrap_err();
            let known = matches!(
                error,
                BootError::NotAKernel(_) | BootError::Truncated { .. }
            );
            assert!(known, "{end}: {error}");
        }
    }
}

#[test]
fn kernels_of_another_kind() {
    let change = |mut image: Vec<u8>, at: usize, bytes: &[u8]| {
        put(&mut image, at, bytes);
        let error = open(&image).unwrap_err();
        assert!(matches!(error, BootError::Unusable { .. }), "{error}");
        assert!(error.hint().is_some());
        error.to_string()
    };
    assert!(change(bzimage(), 0x206, &[0x09, 0x02]).contains("protocol is 2.09"));
    assert!(change(bzimage(), 0x211, &[0]).contains("zImage"));
    assert!(change(bzimage(), 0x236, &[0]).contains("64-bit entry"));
    assert!(change(bzimage(), 0x230, &[0, 0, 0x30, 0]).contains("power of two"));
    assert!(change(bzimage(), 0x201, &[0x10]).contains("setup header"));
    assert!(change(elf(true), 4, &[1]).contains("not a 64-bit"));
    assert!(change(elf(true), 18, &[183]).contains("machine 183"));
    assert!(change(elf(true), 64, &[3]).contains("a program"));
    assert!(change(elf(true), 64 + 24, &[0, 0, 4, 0]).contains("below 1 MiB"));
    assert!(change(elf(false), 24, &[0, 0, 0, 2]).contains("no PVH note"));
    let mut image = elf(true);
    put(&mut image, 0xc0, &0x50_0000u32.to_le_bytes());
    assert!(matches!(
        boot(&image, None, 64, ""),
        Err(BootError::Unusable { .. })
    ));
}

#[test]
fn what_does_not_fit_says_how_much_memory_would_do() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x260, &0x800_0000u32.to_le_bytes());
    let error = boot(&kernel, None, 64, "").unwrap_err();
    assert!(
        matches!(error, BootError::KernelDoesNotFit { .. }),
        "{error}"
    );
    assert_eq!(
        error.hint().unwrap(),
        "give the guest more with --memory 192M"
    );

    let error = boot(&bzimage(), Some(&vec![0; 50 << 20]), 64, "").unwrap_err();
    assert!(matches!(
        error,
        BootError::InitrdDoesNotFit {
            limit_is_ram: true,
            ..
        }
    ));
    assert_eq!(
        error.hint().unwrap(),
        "give the guest more with --memory 128M"
    );

    // More memory would not help.
    put(&mut kernel, 0x258, &(8u64 << 30).to_le_bytes());
    let error = boot(&kernel, None, 64, "").unwrap_err();
    assert_eq!(error.hint(), None);
}

#[test]
fn command_lines() {
    let long = "x".repeat(2048);
    let error = boot(&bzimage(), None, 64, &long).unwrap_err();
    assert!(matches!(
        error,
        BootError::CmdlineTooLong {
            length: 2048,
            limit: 2047
        }
    ));
    assert_eq!(error.hint().unwrap(), "shorten --cmdline by 1 bytes");
    boot(&bzimage(), None, 64, &long[1..]).unwrap();
    let error = boot(&elf(true), None, 64, &"x".repeat(1 << 16)).unwrap_err();
    assert!(matches!(
        error,
        BootError::CmdlineTooLong { limit: 2047, .. }
    ));
    boot(&elf(true), None, 64, &"x".repeat(2047)).unwrap();
    assert!(matches!(
        boot(&bzimage(), None, 64, "a\0b"),
        Err(BootError::CmdlineNul(1))
    ));
    let error = boot(&bzimage(), None, 64, "a=\u{e4}").unwrap_err();
    assert!(matches!(
        error,
        BootError::CmdlineNotAscii { position: 2, .. }
    ));
}

/// Header bytes to change, and the length to which the file is cut.
fn damage() -> impl Strategy<Value = (Vec<(usize, u8)>, Option<usize>)> {
    let byte = prop_oneof![Just(0u8), Just(0xff), Just(0x7f), any::<u8>()];
    (
        proptest::collection::vec((any::<usize>(), byte), 0..12),
        proptest::option::weighted(0.2, any::<usize>()),
    )
}

fn damaged(mut image: Vec<u8>, from: usize, to: usize, damage: (Vec<(usize, u8)>, Option<usize>)) {
    for (at, byte) in damage.0 {
        image[from + at % (to - from)] = byte;
    }
    if let Some(end) = damage.1 {
        image.truncate(end % image.len());
    }
    // Both success and an error are allowed; a panic or an endless loop is not.
    let _ = boot(&image, Some(b"initrd"), 64, "console=ttyS0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_bzimage_never_panics(d in damage()) {
        damaged(bzimage(), 0x1f1, 0x26c, d);
    }

    #[test]
    fn a_damaged_elf_never_panics(d in damage(), note in any::<bool>()) {
        damaged(elf(note), 4, 0xc4, d);
    }

    #[test]
    fn initrds_lie_between_kernel_and_limit(
        size in 1u64..(4 << 30),
        kernel_end in MIB..(2 << 30),
        low_ram in MIB..(3 << 30),
        reach in MIB..(4 << 30),
    ) {
        if let Ok(range) = fit_initrd(size, kernel_end, low_ram, reach) {
            prop_assert!(range.start >= kernel_end && range.end() <= low_ram.min(reach));
            prop_assert_eq!((range.start % 4096, range.size), (0, size));
        }
    }
}
