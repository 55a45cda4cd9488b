//! Reads and writes of eventfds and of devices' regions, and calls that make files.

use std::borrow::Cow;

use crate::decode::value::{Field, Kind, Memory, Value};
use crate::event::{Body, Call, Names};
use crate::files::open_file::{FileKind, FileRef};
use crate::purposes;
use crate::sys::memory::Remote;
use crate::watch::memory::{field, region};
use crate::watch::thread::{Started, Thread, What};
use crate::watch::world::World;

/// Bytes of a read or write that are shown.
const SHOWN: usize = 64;
/// VFIO's PCI driver has a region's number above these bits of the offset
/// (VFIO_PCI_OFFSET_SHIFT); it counts if the program has not asked for the offset.
const REGION_SHIFT: u32 = 40;
/// VFIO_PCI_CONFIG_REGION_INDEX.
const CONFIG: u32 = 7;
/// The bytes of configuration space.
const CONFIG_SPACE: usize = 4096;

/// A read or write begins.
pub fn enter(world: &mut World, thread: &mut Thread, args: [u64; 6]) -> What {
    let file = world.tables.file(thread.table, thread.tid, args[0] as i32);
    match file {
        Some(file) if is_shown(&file) => What::File(file),
        _ => What::Plain,
    }
}

fn is_shown(file: &FileRef) -> bool {
    match file.kind {
        FileKind::Eventfd => true,
        FileKind::Calls(kind) => matches!(kind, Kind::Device | Kind::IommufdOther),
    }
}

/// The event of a call on a file.
pub struct Shown {
    /// The call.
    pub name: Cow<'static, str>,
    /// What was handed in.
    pub ins: Vec<Field>,
    /// What the kernel has written.
    pub outs: Vec<Field>,
    /// The file that was made.
    pub makes: Option<String>,
    /// What it means.
    pub note: Option<String>,
}

/// Shows a call.
pub fn show(
    world: &mut World,
    thread: &Thread,
    started: &Started,
    file: Option<FileRef>,
    shown: Shown,
    (result, now): (i64, u64),
) {
    let body = Body::Call(Call {
        why: file
            .as_ref()
            .and_then(|file| purposes::of_call(&shown.name, Some(file.kind))),
        name: shown.name,
        known: true,
        ins: shown.ins,
        outs: shown.outs,
        result,
        makes: shown.makes,
        note: shown.note,
        names: Names::default(),
    });
    let took = now.saturating_sub(started.time);
    world.emit(thread, started.time, took, file, body);
}

/// A read or write has ended.
pub fn leave(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    file: FileRef,
    end: (i64, u64),
) {
    let [_, buffer, count, offset, ..] = started.args;
    let (name, write, positioned) = match i64::try_from(started.number) {
        Ok(libc::SYS_read) => ("read", false, false),
        Ok(libc::SYS_write) => ("write", true, false),
        Ok(libc::SYS_pread64) => ("pread64", false, true),
        _ => ("pwrite64", true, true),
    };
    let len = match (usize::try_from(end.0), write) {
        (Ok(len), _) => len.min(CONFIG_SPACE),
        // What was not written is still what the program wanted to write.
        (Err(_), true) => usize::try_from(count).unwrap_or(SHOWN).min(SHOWN),
        (Err(_), false) => 0,
    };
    let mut bytes = vec![0; len];
    let read = Remote(thread.tid).read(buffer, &mut bytes);
    bytes.truncate(read);
    let data = match bytes.len() {
        0 => None,
        1 | 2 | 4 | 8 => Some(Value::Hex(number(&bytes), bytes.len() as u8)),
        len => Some(Value::Bytes(bytes[..len.min(SHOWN)].to_vec())),
    };
    let mut ins = Vec::new();
    let mut note = None;
    if positioned && file.kind == FileKind::Calls(Kind::Device) {
        let (index, inside) = region_of(world, &file, offset);
        ins.push(field("region", Value::Text(region(index))));
        ins.push(field("offset", Value::Hex(inside, 4)));
        note = register(world, &file, (index, inside), write, &bytes);
    } else if positioned {
        ins.push(field("offset", Value::Hex(offset, 8)));
    }
    ins.push(field("count", Value::Decimal(count)));
    let mut outs = Vec::new();
    if let Some(data) = data {
        let data = match file.kind {
            FileKind::Eventfd if bytes.len() == 8 => {
                field("counter", Value::Decimal(number(&bytes)))
            }
            _ => field("data", data),
        };
        if write { &mut ins } else { &mut outs }.push(data);
    }
    let shown = Shown {
        name: name.into(),
        ins,
        outs,
        makes: None,
        note,
    };
    show(world, thread, started, Some(file), shown, end);
}

fn number(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    for (byte, from) in value.iter_mut().zip(bytes) {
        *byte = *from;
    }
    u64::from_le_bytes(value)
}

/// The region of a device's file and the offset in it.
fn region_of(world: &World, file: &FileRef, offset: u64) -> (u32, u64) {
    let device = world.devices.get(&file.id);
    let known = device.and_then(|device| {
        let mut regions = device.regions.iter();
        regions.find_map(|(index, (start, size))| {
            let inside = offset.checked_sub(*start)?;
            (inside < *size).then_some((*index, inside))
        })
    });
    known.unwrap_or((
        (offset >> REGION_SHIFT) as u32,
        offset & ((1 << REGION_SHIFT) - 1),
    ))
}

/// The name of a register of configuration space; learns from reads where capabilities are.
fn register(
    world: &mut World,
    file: &FileRef,
    (index, inside): (u32, u64),
    write: bool,
    bytes: &[u8],
) -> Option<String> {
    let at = u16::try_from(inside).ok().filter(|_| index == CONFIG)?;
    let device = world.device(file.id)?;
    // A BAR of the host is read as four bytes, and is of no interest here.
    if !write {
        device.config.read(at, bytes);
    }
    (bytes.len() <= 8).then(|| device.config.name(at))
}

/// Directories of programs and of the kernel's facts. A VMM reads much of them, and the trace does
/// not name their files.
const NOT_NAMED: [&[u8]; 4] = [b"/sys/", b"/usr/", b"/lib/", b"/lib64/"];

/// Whether open(2) of the path at this address may make a file that the trace names. If a link
/// leads out of such a directory, the descriptor is looked up when it is used.
pub fn may_make(thread: &Thread, at: u64) -> bool {
    let mut path = [0; 8];
    let read = Remote(thread.tid).read(at, &mut path);
    !NOT_NAMED.iter().any(|dir| path[..read].starts_with(dir))
}

/// A call that makes a file has ended. Shows it if the trace names the file.
pub fn made(world: &mut World, thread: &mut Thread, started: &Started, result: i64, now: u64) {
    let Some(fd) = i32::try_from(result).ok().filter(|fd| *fd >= 0) else {
        return;
    };
    world.tables.close(thread.table, fd as u32, fd as u32);
    let args = started.args;
    if started.number == libc::SYS_pidfd_getfd as u64 {
        let from = (args[0] as i32, args[1] as i32);
        let copied = world.tables.copied((thread.tid, fd), from);
        if copied.is_some() {
            world
                .tables
                .received(thread.table, (thread.tid, fd), copied);
        }
    }
    let Some(file) = world.tables.file(thread.table, thread.tid, fd) else {
        return;
    };
    let (name, ins) = match i64::try_from(started.number) {
        Ok(libc::SYS_eventfd) => ("eventfd", vec![field("initval", Value::Decimal(args[0]))]),
        Ok(libc::SYS_eventfd2) => (
            "eventfd2",
            vec![
                field("initval", Value::Decimal(args[0])),
                field("flags", Value::Hex(args[1], 4)),
            ],
        ),
        Ok(libc::SYS_open) => ("open", path(thread, args[0])),
        Ok(libc::SYS_openat) => ("openat", path(thread, args[1])),
        Ok(libc::SYS_openat2) => ("openat2", path(thread, args[1])),
        Ok(libc::SYS_pidfd_getfd) => (
            "pidfd_getfd",
            vec![
                field("pidfd", Value::Decimal(args[0])),
                field("targetfd", Value::Decimal(args[1])),
            ],
        ),
        _ => ("dup", vec![field("oldfd", Value::Decimal(args[0]))]),
    };
    let shown = Shown {
        name: name.into(),
        ins,
        outs: Vec::new(),
        makes: Some(file.name.clone()),
        note: None,
    };
    show(world, thread, started, Some(file), shown, (result, now));
}

fn path(thread: &Thread, at: u64) -> Vec<Field> {
    let mut bytes = [0; 256];
    let read = Remote(thread.tid).read(at, &mut bytes);
    let text = bytes[..read].split(|byte| *byte == 0).next();
    let text = text.unwrap_or_default().escape_ascii().to_string();
    vec![field("pathname", Value::Text(text))]
}
