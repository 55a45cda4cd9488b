//! An ELF kernel: a vmlinux, or any other ELF that is entered by PVH.
//!
//! The fields are those of the System V ABI's "Object Files" and "Program Loading" chapters.
//! linux-loader copies the segments and finds the PVH note. It does not check class, machine, and
//! the positions of the segments in file and RAM, so this file makes these checks first.

use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{Elf, KernelLoader, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::entry::Extent;
use crate::boot::error::BootError;
use crate::boot::file::BootFile;
use crate::boot::linux::header_for_vmlinux;
use crate::layout::{HIGH_MEMORY_START, LOW_CMDLINE_SIZE};
use crate::memory::ram::GuestMemory;

/// The first bytes of the file.
pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

const HEADER_SIZE: usize = 64;
const SEGMENT_SIZE: usize = 56;
const CLASS_64: u8 = 2;
const DATA_LITTLE: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_NOTE: u32 = 4;
const SEGMENT_THREAD_LOCAL: u32 = 7;

/// A PT_LOAD segment that lies inside the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Guest-physical.
    start: u64,
    /// Bytes that come from the file.
    from_file: u64,
    /// Bytes in memory; those after `from_file` are zero.
    in_memory: u64,
}

/// An ELF image whose headers have been checked against its file.
pub(super) struct Image {
    segments: Vec<Segment>,
    extent: Extent,
    entry: u64,
}

/// The entry of an ELF image.
pub(super) enum Start {
    /// 32-bit protected mode, by the PVH note's address.
    Pvh(u64),
    /// Long mode with a zero page, at `e_entry`.
    Linux64(u64, Box<setup_header>),
}

/// The checked values of the ELF header.
struct Header {
    /// `e_entry`.
    entry: u64,
    /// Offset of the program headers in the file.
    table: u64,
    /// The number of program headers.
    count: usize,
}

/// A program header that affects loading.
enum ProgramHeader {
    Load(Segment),
    Note,
}

impl Image {
    /// Reads and checks the ELF header and the program headers.
    pub(super) fn read(source: &BootFile) -> Result<Self, BootError> {
        let file_size = source.size()?;
        let header = read_header(source, file_size)?;
        let mut table = vec![0; header.count * SEGMENT_SIZE];
        read_at(source, file_size, &mut table, header.table)?;
        let mut segments = Vec::new();
        let mut has_note = false;
        for bytes in table.chunks_exact(SEGMENT_SIZE) {
            match read_program_header(source, file_size, bytes)? {
                Some(ProgramHeader::Load(segment)) => segments.push(segment),
                Some(ProgramHeader::Note) => has_note = true,
                None => {}
            }
        }
        let start = segments.iter().map(|s| s.start).min();
        let end = segments
            .iter()
            .map(|s| s.start.saturating_add(s.in_memory))
            .max();
        let (Some(start), Some(end)) = (start, end) else {
            return Err(unusable(source, "it has nothing to load".into()));
        };
        let image = Self {
            segments,
            extent: Extent { start, end },
            entry: header.entry,
        };
        // An image with a note may have a PVH entry; linux-loader looks for it while loading.
        if !has_note && !image.has_code_at(image.entry) {
            return Err(image.no_entry(source));
        }
        Ok(image)
    }

    /// The RAM from the lowest segment's start to the highest's end.
    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    /// The most bytes of a command line, without the NUL. An ELF image does not tell. Linux cuts a
    /// longer one without a word (arch/x86/include/asm/setup.h, COMMAND_LINE_SIZE).
    pub(super) fn cmdline_limit(&self) -> u64 {
        const LINUX: u64 = 2048;
        LINUX.min(LOW_CMDLINE_SIZE) - 1
    }

    /// Copies the segments; the caller has checked that [`Self::extent`] is RAM.
    pub(super) fn load(&self, source: &BootFile, memory: &GuestMemory) -> Result<Start, BootError> {
        // linux-loader does not zero the rest of a segment, which after a reboot holds data of the
        // previous kernel. The zeroes are written before loading, so that segments that share a
        // page keep their bytes.
        for s in &self.segments {
            zero(memory, s.start + s.from_file, s.in_memory - s.from_file)?;
        }
        let loaded =
            Elf::load(memory, None, &mut &source.file, None).map_err(|e| BootError::Load {
                path: source.path.clone(),
                source: e,
            })?;
        // linux-loader reports the entry of the last PT_NOTE; Linux has only one PT_NOTE.
        match loaded.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) if self.has_code_at(entry.0) => {
                Ok(Start::Pvh(entry.0))
            }
            PvhBootCapability::PvhEntryPresent(entry) => Err(BootError::Unusable {
                path: source.path.clone(),
                reason: format!("its PVH entry {:#x} is outside what it loads", entry.0),
            }),
            // A vmlinux is entered at `e_entry`, which is the physical address of startup_64.
            _ if self.has_code_at(self.entry) => {
                Ok(Start::Linux64(self.entry, Box::new(header_for_vmlinux())))
            }
            _ => Err(self.no_entry(source)),
        }
    }

    fn has_code_at(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|s| address >= s.start && address - s.start < s.from_file)
    }

    fn no_entry(&self, source: &BootFile) -> BootError {
        BootError::Unusable {
            path: source.path.clone(),
            reason: format!(
                "it has no PVH note, and its entry {:#x} is outside what it loads",
                self.entry
            ),
        }
    }
}

/// Makes the error of a kernel that is damaged or not for this machine.
fn unusable(source: &BootFile, reason: String) -> BootError {
    BootError::Unusable {
        path: source.path.clone(),
        reason,
    }
}

/// Reads the ELF header, and checks that it is the header of an x86-64 executable.
fn read_header(source: &BootFile, file_size: u64) -> Result<Header, BootError> {
    let unusable = |reason: String| unusable(source, reason);
    let mut header = [0; HEADER_SIZE];
    read_at(source, file_size, &mut header, 0)?;
    if header[4] != CLASS_64 {
        return Err(unusable("it is not a 64-bit ELF image".into()));
    }
    if header[5] != DATA_LITTLE {
        return Err(unusable("it is a big-endian ELF image".into()));
    }
    let machine = u16_at(&header, 18);
    if machine != MACHINE_X86_64 {
        return Err(unusable(format!(
            "it is for ELF machine {machine}, not for x86-64"
        )));
    }
    if !matches!(u16_at(&header, 16), TYPE_EXECUTABLE | TYPE_SHARED) {
        return Err(unusable(
            "it is an ELF object or core, not an executable".into(),
        ));
    }
    let table = u64_at(&header, 32);
    if usize::from(u16_at(&header, 54)) != SEGMENT_SIZE || table < HEADER_SIZE as u64 {
        return Err(unusable("its program headers are malformed".into()));
    }
    Ok(Header {
        entry: u64_at(&header, 24),
        table,
        count: u16_at(&header, 56).into(),
    })
}

/// Reads a program header of [`SEGMENT_SIZE`] bytes, and checks it against the file; `None` if it
/// does not affect loading.
fn read_program_header(
    source: &BootFile,
    file_size: u64,
    bytes: &[u8],
) -> Result<Option<ProgramHeader>, BootError> {
    let unusable = |reason: String| unusable(source, reason);
    let kind = u32_at(bytes, 0);
    match kind {
        // Only programs have these segments, not kernels.
        SEGMENT_INTERPRETER | SEGMENT_THREAD_LOCAL => {
            return Err(unusable("it is a program, not a kernel".into()));
        }
        SEGMENT_LOAD | SEGMENT_NOTE => {}
        _ => return Ok(None),
    }
    let segment = Segment {
        start: u64_at(bytes, 24),
        from_file: u64_at(bytes, 32),
        in_memory: u64_at(bytes, 40),
    };
    let Segment {
        start,
        from_file,
        in_memory,
    } = segment;
    let in_file = u64_at(bytes, 8).saturating_add(from_file);
    if in_file > file_size {
        return Err(source.truncated(file_size, in_file));
    }
    if kind == SEGMENT_NOTE {
        return Ok(Some(ProgramHeader::Note));
    }
    if in_memory == 0 && from_file == 0 {
        return Ok(None);
    }
    if in_memory < from_file {
        return Err(unusable(format!(
            "its segment at {start:#x} has more bytes in the file than in memory"
        )));
    }
    if start < HIGH_MEMORY_START {
        return Err(unusable(format!(
            "its segment at {start:#x} is below 1 MiB"
        )));
    }
    Ok(Some(ProgramHeader::Load(segment)))
}

/// Fills guest memory with zeroes.
fn zero(memory: &GuestMemory, start: u64, size: u64) -> Result<(), BootError> {
    const CHUNK: usize = 64 << 10;
    let zeroes = [0; CHUNK];
    let mut done = 0;
    while done < size {
        let n = (size - done).min(CHUNK as u64);
        memory
            .write_slice(&zeroes[..n as usize], GuestAddress(start + done))
            .map_err(|source| BootError::Memory {
                what: "kernel",
                source,
            })?;
        done += n;
    }
    Ok(())
}

/// Reads headers from the file; reports a file that is too short as truncated.
fn read_at(
    source: &BootFile,
    file_size: u64,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), BootError> {
    let needed = offset.saturating_add(buffer.len() as u64);
    if needed > file_size {
        return Err(source.truncated(file_size, needed));
    }
    source
        .file
        .read_exact_at(buffer, offset)
        .map_err(|e| source.unreadable(e))
}

/// `N` bytes at an offset in a header; zeroes if the offset is outside. Every caller's offset is a
/// constant inside.
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes
        .get(offset..)
        .and_then(|b| b.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, offset))
}
