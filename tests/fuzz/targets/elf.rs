//! ELF kernels of any segments: each byte that was loaded is the file's, each byte after them in
//! the segment is zero, and nothing else of the guest's memory has changed.

#![no_main]

#[path = "../../common/kernels.rs"]
#[allow(dead_code)] // The other images are the target `kernel`'s.
mod kernels;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};
use vmm::boot::Images;
use vmm::config::memory::Pages;
use vmm::layout::Layout;
use vmm::memory::ram::Ram;
use vmm_sys_util::tempfile::TempFile;

const MIB: u64 = 1 << 20;
const RAM: u64 = 64 * MIB;
/// What the guest's memory has before a load.
const BEFORE: u8 = 0xa5;

#[derive(Debug, Arbitrary)]
struct Input {
    segments: Vec<Segment>,
    /// The entry: an offset in the first segment, or anywhere.
    entry: Result<u8, u32>,
    /// A note of PVH with this entry in the first segment, or behind it.
    pvh: Option<u16>,
    content: Vec<u8>,
    /// The file ends earlier.
    cut: Option<u16>,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
struct Segment {
    /// In the guest: mostly where a kernel may be.
    page: u16,
    within: u16,
    /// The values are as they are; else they fit the file and the guest.
    wild: bool,
    offset: u16,
    from_file: u16,
    /// More than from the file, or less.
    more: i16,
}

/// A segment as the program header has it.
#[derive(Clone, Copy, Debug)]
struct Load {
    address: u64,
    offset: usize,
    from_file: usize,
    in_memory: u64,
}

impl Segment {
    /// The segment in a file whose content of so many bytes begins at `content`.
    fn load(self, content: usize, len: usize) -> Load {
        let (offset, from_file) = (usize::from(self.offset), usize::from(self.from_file));
        let at = u64::from(self.page) * 0x1000 + u64::from(self.within % 0x1000);
        if self.wild {
            let high = if self.page.is_multiple_of(8) {
                1 << 40
            } else {
                0
            };
            return Load {
                address: at | high,
                offset,
                from_file,
                in_memory: (from_file as u64).saturating_add_signed(self.more.into()),
            };
        }
        let offset = offset % (len + 1);
        let from_file = from_file % (len - offset + 1);
        Load {
            address: MIB + at % (RAM - 2 * MIB),
            offset: content + offset,
            from_file,
            in_memory: from_file as u64 + u64::from(self.more.unsigned_abs()),
        }
    }
}

/// The image and its segments.
struct Kernel {
    image: Vec<u8>,
    segments: Vec<Load>,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// The most segments of an image.
const MOST: usize = 6;

/// Bytes of the content before the note's.
fn headers(input: &Input) -> usize {
    let count = input.segments.len().min(MOST) + usize::from(input.pvh.is_some());
    HEADER + count * PROGRAM_HEADER
}

/// The image (System V ABI, "Object Files"): ELF header, program headers, the note, the content.
fn kernel(input: &Input) -> Kernel {
    let note_at = headers(input);
    let content = note_at + if input.pvh.is_some() { 20 } else { 0 };
    let segments = input.segments.iter().take(MOST);
    let load = |segment: &Segment| segment.load(content, input.content.len());
    let segments: Vec<Load> = segments.map(load).collect();
    let first = segments.first().map_or(0, |segment| segment.address);
    let entry = match input.entry {
        Ok(offset) => first + u64::from(offset),
        Err(anywhere) => anywhere.into(),
    };
    let count = segments.len() + usize::from(input.pvh.is_some());
    let mut image = vec![0; note_at];
    kernels::put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    let fields = [
        (16, 2),
        (18, 62),
        (20, 1),
        (52, 64),
        (54, 56),
        (56, count as u16),
    ];
    for (at, value) in fields {
        kernels::put(&mut image, at, &u16::to_le_bytes(value));
    }
    kernels::put(&mut image, 24, &entry.to_le_bytes());
    kernels::put(&mut image, 32, &(HEADER as u64).to_le_bytes());
    let mut header = |index: usize, kind: u32, values: [u64; 5]| {
        let at = HEADER + index * PROGRAM_HEADER;
        kernels::put(&mut image, at, &kind.to_le_bytes());
        for (i, value) in values.into_iter().enumerate() {
            kernels::put(&mut image, at + 8 + 8 * i, &value.to_le_bytes());
        }
    };
    for (index, s) in segments.iter().enumerate() {
        let (offset, from_file) = (s.offset as u64, s.from_file as u64);
        header(
            index,
            1,
            [offset, s.address, s.address, from_file, s.in_memory],
        );
    }
    if let Some(offset) = input.pvh {
        header(segments.len(), 4, [note_at as u64, 0, 0, 20, 20]);
        for word in [4, 4, 18] {
            image.extend_from_slice(&u32::to_le_bytes(word));
        }
        image.extend_from_slice(b"Xen\0");
        image.extend_from_slice(&(first as u32).wrapping_add(offset.into()).to_le_bytes());
    }
    image.extend_from_slice(&input.content);
    if let Some(cut) = input.cut {
        image.truncate(cut.into());
    }
    Kernel { image, segments }
}

/// The pages of guest memory that a load may change, by their first address: only those are filled
/// and compared.
fn pages(segments: &[Load]) -> BTreeMap<u64, Vec<u8>> {
    let mut pages = BTreeMap::new();
    for segment in segments.iter().filter(|segment| segment.address < RAM) {
        let first = (segment.address & !0xfff).saturating_sub(0x1000);
        let end = segment.address + segment.in_memory + 0x2000;
        for page in (first..end.min(RAM)).step_by(0x1000) {
            // There is no RAM between 640 KiB and 1 MiB.
            if !(0x9f000..MIB).contains(&page) {
                pages.insert(page, vec![BEFORE; 0x1000]);
            }
        }
    }
    pages
}

/// Writes a segment into the model.
fn load(pages: &mut BTreeMap<u64, Vec<u8>>, segment: &Load, image: &[u8]) {
    for i in 0..segment.in_memory as usize {
        let from_file = i < segment.from_file;
        let byte = if from_file {
            image[segment.offset + i]
        } else {
            0
        };
        let address = segment.address + i as u64;
        let page = pages
            .get_mut(&(address & !0xfff))
            .expect("a page of the segment");
        page[(address & 0xfff) as usize] = byte;
    }
}

fn overlap(segments: &[Load]) -> bool {
    let ranges = segments.iter().map(|s| (s.address, s.in_memory));
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    ranges
        .windows(2)
        .any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
}

fn file_of(image: &[u8]) -> File {
    let mut file = TempFile::new().expect("a file").into_file();
    file.write_all(image).expect("a file");
    file.rewind().expect("a file");
    file
}

fn guest() -> &'static (Layout, Ram) {
    static GUEST: OnceLock<(Layout, Ram)> = OnceLock::new();
    GUEST.get_or_init(|| {
        let layout = Layout::new(RAM, 0, 40).expect("a layout");
        let ram = Ram::new(&layout, Pages::default(), false).expect("memory");
        (layout, ram)
    })
}

fuzz_target!(|input: Input| {
    let Kernel { image, segments } = kernel(&input);
    let file = file_of(&image);
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (layout, ram) = guest();
    let memory = ram.memory();
    let mut pages = pages(&segments);
    for (page, content) in &pages {
        let written = memory.write_slice(content, GuestAddress(*page));
        written.expect("a page of RAM");
    }
    let loaded = Images::open(&path, None).and_then(|images| {
        images.check(layout, "")?;
        images.load_files(memory, layout, "")
    });
    if loaded.is_err() {
        return;
    }
    let segments: Vec<_> = segments.into_iter().filter(|s| s.in_memory > 0).collect();
    for segment in &segments {
        let (start, end) = (segment.address, segment.address + segment.in_memory);
        assert!(
            start >= MIB && end <= RAM,
            "a segment outside of the guest's memory"
        );
        let fits = segment.offset + segment.from_file <= image.len();
        assert!(fits && segment.from_file as u64 <= segment.in_memory);
    }
    // Of overlapping segments either may be on top.
    if overlap(&segments) {
        return;
    }
    segments
        .iter()
        .for_each(|segment| load(&mut pages, segment, &image));
    for (page, expected) in &pages {
        let mut content = vec![0; 0x1000];
        let read = memory.read_slice(&mut content, GuestAddress(*page));
        read.expect("a page of RAM");
        assert!(
            content == *expected,
            "the page at {page:#x} is not as the file says"
        );
    }
});
