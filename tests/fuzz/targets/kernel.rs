//! Kernel images that are damaged: opened, checked and loaded into a small guest.

#![no_main]

#[path = "../../common/kernels.rs"]
mod kernels;

use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::boot::acpi::AcpiTables;
use vmm::boot::{Entry, Images, acpi};
use vmm::config::memory::Pages;
use vmm::config::topology::Topology;
use vmm::layout::Layout;
use vmm::memory::ram::Ram;
use vmm_sys_util::tempfile::TempFile;

#[derive(Debug, Arbitrary)]
struct Input {
    kind: Kind,
    /// Where and what.
    damage: Vec<(u16, u32, Width)>,
    /// Bytes kept, if not all.
    cut: Option<u16>,
    cmdline: String,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    BzImage,
    Elf,
    Pvh,
    Raw(Vec<u8>),
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum Width {
    Byte,
    Word,
    Dword,
}

/// Fields of a bzImage (Documentation/arch/x86/boot.rst) and of the headers of an ELF image.
const FIELDS: [usize; 32] = [
    0x1f1, 0x1f4, 0x1fe, 0x201, 0x202, 0x206, 0x211, 0x214, 0x22c, 0x230, 0x234, 0x236, 0x238,
    0x258, 0x25c, 0x260, 4, 5, 16, 18, 24, 32, 54, 56, 64, 72, 88, 96, 104, 176, 180, 192,
];

/// Where damage is: mostly at a field, else anywhere in the headers.
fn damaged(at: u16) -> usize {
    match at {
        0..0xc000 => FIELDS[usize::from(at) % FIELDS.len()],
        _ => usize::from(at) % 0x300,
    }
}

struct Guest {
    layout: Layout,
    ram: Ram,
    tables: AcpiTables,
}

fn guest() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| {
        let layout = Layout::new(64 << 20, 0, 40).expect("a layout");
        let ram = Ram::new(&layout, Pages::default(), false).expect("64 MiB");
        let tables = acpi::build(&layout, &Topology::default()).expect("tables");
        Guest {
            layout,
            ram,
            tables,
        }
    })
}

fuzz_target!(|input: Input| {
    let mut image = match input.kind {
        Kind::BzImage => kernels::bzimage(),
        Kind::Elf => kernels::elf(false),
        Kind::Pvh => kernels::elf(true),
        Kind::Raw(bytes) => bytes,
    };
    for (at, value, width) in &input.damage {
        let len = match width {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
        };
        // The headers are where damage counts.
        for (i, byte) in value.to_le_bytes().into_iter().take(len).enumerate() {
            if let Some(to) = image.get_mut(damaged(*at) + i) {
                *to = byte;
            }
        }
    }
    if let Some(cut) = input.cut {
        image.truncate(cut.into());
    }
    let mut file = TempFile::new().expect("a file").into_file();
    file.write_all(&image).expect("a file");
    file.rewind().expect("a file");
    // The file has no name any more.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));

    let guest = guest();
    let Ok(images) = Images::open(&path, None) else {
        return;
    };
    let checked = images.check(&guest.layout, &input.cmdline);
    let loaded = images.load(
        guest.ram.memory(),
        &guest.layout,
        &input.cmdline,
        &guest.tables,
    );
    match loaded {
        Ok(Entry::Pvh { eip, .. }) => assert!(guest.layout.ram().any(|r| r.contains(eip, 1))),
        Ok(Entry::Linux64 { rip, .. }) => assert!(guest.layout.ram().any(|r| r.contains(rip, 1))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    drop(checked);
});
