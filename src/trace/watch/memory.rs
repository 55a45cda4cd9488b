//! mmap, munmap, mremap and madvise of files that the trace names, and of guest memory.

use crate::decode::value::{Field, Value};
use crate::event::{Body, Call, Names};
use crate::files::open_file::FileRef;
use crate::purposes;
use crate::watch::kept;
use crate::watch::thread::{Span, Started, Thread};
use crate::watch::world::{Slot, World};

const PROT: [(u64, &str); 3] = [(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
const MAP: [(u64, &str); 9] = [
    (0x1, "MAP_SHARED"),
    (0x2, "MAP_PRIVATE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x4_0000, "MAP_HUGETLB"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];
/// mman-common.h.
const ADVICE: [(u64, &str); 14] = [
    (0, "MADV_NORMAL"),
    (1, "MADV_RANDOM"),
    (3, "MADV_WILLNEED"),
    (4, "MADV_DONTNEED"),
    (8, "MADV_FREE"),
    (9, "MADV_REMOVE"),
    (10, "MADV_DONTFORK"),
    (12, "MADV_MERGEABLE"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (16, "MADV_DONTDUMP"),
    (22, "MADV_POPULATE_READ"),
    (23, "MADV_POPULATE_WRITE"),
    (25, "MADV_COLLAPSE"),
];

/// A field.
pub fn field(name: &'static str, value: Value) -> Field {
    Field {
        name: name.into(),
        value,
    }
}

fn flags(raw: u64, known: &[(u64, &'static str)]) -> Value {
    let set = known.iter().filter(|(bit, _)| raw & bit != 0);
    let rest = known.iter().fold(raw, |rest, (bit, _)| rest & !bit);
    Value::Flags {
        raw,
        names: set.map(|(_, name)| *name).collect(),
        rest,
    }
}

/// What a range of the thread's memory is: a file's mapping, or guest memory.
pub fn what_is_at(world: &mut World, thread: &Thread, at: u64, len: u64) -> Option<Span> {
    let mappings = world.spaces.get(thread.space)?;
    if let Some((file, offset)) = mappings.at(at, len) {
        let file = file.clone();
        let note = part(world, &file, offset);
        return Some(Span {
            file: Some(file),
            note,
        });
    }
    let end = at.checked_add(len)?;
    let vms = world.vms.values().filter(|vm| vm.space == thread.space);
    for vm in vms {
        let hit = |slot: &&Slot| slot.host < end && at < slot.host.saturating_add(slot.size);
        if let Some(slot) = vm.slots.values().find(hit) {
            let guest = slot.guest.wrapping_add(at.saturating_sub(slot.host));
            return Some(Span {
                file: None,
                note: Some(format!("guest memory at {guest:#x}")),
            });
        }
    }
    None
}

/// The part of a file that an offset is: a device's region.
pub fn part(world: &World, file: &FileRef, offset: u64) -> Option<String> {
    let device = world.devices.get(&file.id)?;
    let hit = |(start, size): &(u64, u64)| {
        offset
            .checked_sub(*start)
            .is_some_and(|inside| inside < *size)
    };
    let (index, (start, _)) = device.regions.iter().find(|(_, region)| hit(region))?;
    Some(format!("{}+{:#x}", region(*index), offset - start))
}

/// The name of a region of a PCI device (linux/vfio.h).
pub fn region(index: u32) -> String {
    match index {
        0..=5 => format!("BAR{index}"),
        6 => "ROM".into(),
        7 => "config".into(),
        8 => "VGA".into(),
        _ => format!("region {index}"),
    }
}

/// Whether mmap(2) may map what the trace names, or over such a range: the file, or the range that
/// is asked for.
pub fn may_map(world: &mut World, thread: &Thread, args: [u64; 6]) -> bool {
    let [at, len, _, map, fd, _] = args;
    let file = match map & 0x20 {
        0 => world.tables.file(thread.table, thread.tid, fd as i32),
        _ => None,
    };
    file.is_some() || (map & 0x10 != 0 && what_is_at(world, thread, at, len).is_some())
}

/// mmap(2) has ended.
pub fn mapped(world: &mut World, thread: &mut Thread, started: &Started, result: i64, now: u64) {
    let [_, len, prot, map, fd, offset] = started.args;
    let fd = fd as i32;
    let anonymous = map & 0x20 != 0 || fd < 0;
    let file = match anonymous {
        true => None,
        false => world.tables.file(thread.table, thread.tid, fd),
    };
    let at = result as u64;
    let ok = !(-4095..0).contains(&result);
    // Whatever was there is gone.
    let before = ok.then(|| what_is_at(world, thread, at, len)).flatten();
    if let (true, Some(mappings)) = (ok, world.spaces.get(thread.space)) {
        match &file {
            Some(file) => mappings.add(at, len, file.clone(), offset),
            None => mappings.remove(at, len),
        }
    }
    if ok {
        kept::remapped(world, thread);
    }
    if let (true, Some(file)) = (ok, &file) {
        kept::has(world, thread, fd, file);
    }
    if file.is_none() && before.is_none() {
        return;
    }
    let ins = vec![
        field("addr", Value::Hex(started.args[0], 8)),
        field("length", Value::Hex(len, 8)),
        field("prot", flags(prot, &PROT)),
        field("flags", flags(map, &MAP)),
        field("offset", Value::Hex(offset, 8)),
    ];
    let note = match &file {
        Some(file) => part(world, file, offset),
        None => before
            .as_ref()
            .and_then(|b| b.note.clone())
            .map(|note| format!("over {note}")),
    };
    let file = file.or_else(|| before?.file);
    emit(
        world,
        thread,
        started,
        "mmap",
        (file, note),
        ins,
        result,
        now,
    );
}

/// munmap(2), mremap(2) or madvise(2) begins.
pub fn changes(world: &mut World, thread: &mut Thread, args: [u64; 6]) -> Option<Span> {
    what_is_at(world, thread, args[0], args[1])
}

/// munmap(2), mremap(2) or madvise(2) on a range that the trace names has ended.
pub fn changed(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    span: Span,
    result: i64,
    now: u64,
) {
    let [at, len, advice, ..] = started.args;
    let mut ins = vec![
        field("addr", Value::Hex(at, 8)),
        field("length", Value::Hex(len, 8)),
    ];
    let name = match i64::try_from(started.number) {
        Ok(libc::SYS_munmap) => {
            if let (0, Some(mappings)) = (result, world.spaces.get(thread.space)) {
                mappings.remove(at, len);
            }
            kept::remapped(world, thread);
            "munmap"
        }
        Ok(libc::SYS_mremap) => {
            if let (true, Some(mappings)) = (result > 0, world.spaces.get(thread.space)) {
                mappings.remove(at, len);
            }
            kept::remapped(world, thread);
            "mremap"
        }
        _ => {
            let known = ADVICE.iter().find(|(number, _)| *number == advice);
            ins.push(field(
                "advice",
                match known {
                    Some((number, name)) => Value::Name(*number, name),
                    None => Value::Decimal(advice),
                },
            ));
            "madvise"
        }
    };
    emit(
        world,
        thread,
        started,
        name,
        (span.file, span.note),
        ins,
        result,
        now,
    );
}

#[expect(clippy::too_many_arguments, reason = "the parts of one event")]
fn emit(
    world: &mut World,
    thread: &Thread,
    started: &Started,
    name: &'static str,
    (file, note): (Option<FileRef>, Option<String>),
    ins: Vec<Field>,
    result: i64,
    now: u64,
) {
    let body = Body::Call(Call {
        name: name.into(),
        known: true,
        ins,
        outs: Vec::new(),
        result,
        makes: None,
        note,
        names: Names::default(),
        why: purposes::of_call(name, file.as_ref().map(|file| file.kind)),
    });
    let took = now.saturating_sub(started.time);
    world.emit(thread, started.time, took, file, body);
}
