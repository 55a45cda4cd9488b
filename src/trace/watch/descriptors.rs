//! Calls that close, copy and hand over descriptors.

use crate::decode::value::Value;
use crate::files::open_file::FileRef;
use crate::watch::io::{self, Shown};
use crate::watch::kept;
use crate::watch::memory::field;
use crate::watch::thread::{Started, Thread, What};
use crate::watch::world::World;

const CLOSE_RANGE_UNSHARE: u64 = 1 << 1;
const CLOSE_RANGE_CLOEXEC: u64 = 1 << 2;
/// CLONE_FILES of sched.h.
pub const CLONE_FILES: u64 = 0x400;
/// CLONE_UNTRACED of sched.h.
pub const CLONE_UNTRACED: u64 = 0x80_0000;

/// close(2) begins: afterwards nothing tells what the descriptor was.
pub fn closing(world: &mut World, thread: &mut Thread, args: [u64; 6]) -> What {
    match world.tables.file(thread.table, thread.tid, args[0] as i32) {
        Some(file) => What::File(file),
        // The call's end may not be waited for. A failed close(2) costs a further look.
        None => {
            world
                .tables
                .close(thread.table, args[0] as u32, args[0] as u32);
            What::Plain
        }
    }
}

/// close(2) has ended. The descriptor is gone even if the call has failed, but for EBADF.
pub fn closed(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    file: Option<FileRef>,
    end: (i64, u64),
) {
    let fd = started.args[0] as u32;
    world.tables.close(thread.table, fd, fd);
    kept::closed(world, thread, fd as i32);
    if let Some(file) = file {
        let shown = Shown {
            name: "close".into(),
            ins: vec![field("fd", Value::Decimal(fd.into()))],
            outs: Vec::new(),
            makes: None,
            note: None,
        };
        io::show(world, thread, started, Some(file), shown, end);
    }
}

/// close_range(2) has ended.
pub fn closed_range(world: &mut World, thread: &mut Thread, args: [u64; 6], result: i64) {
    let [first, last, flags, ..] = args;
    if result < 0 {
        return;
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        unshare(world, thread);
    }
    if flags & CLOSE_RANGE_CLOEXEC == 0 {
        world.tables.close(thread.table, first as u32, last as u32);
        kept::closed_range(world, thread, first as u32, last as u32);
    }
}

/// dup2(2), dup3(2), dup(2), or fcntl(2) with F_DUPFD has ended.
pub fn duplicated(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    result: i64,
    now: u64,
) {
    let Some(new) = i32::try_from(result).ok().filter(|fd| *fd >= 0) else {
        return;
    };
    let old = started.args[0] as i32;
    if old == new {
        return;
    }
    kept::closed(world, thread, new);
    // The copy is the same file as the old descriptor, so it is looked up first.
    let Some(file) = world.tables.file(thread.table, thread.tid, old) else {
        world.tables.close(thread.table, new as u32, new as u32);
        return;
    };
    world.tables.duplicate(thread.table, old, new);
    kept::has(world, thread, new, &file);
    let shown = Shown {
        name: match i64::try_from(started.number) {
            Ok(libc::SYS_dup) => "dup",
            Ok(libc::SYS_dup3) => "dup3",
            Ok(libc::SYS_fcntl) => "fcntl",
            _ => "dup2",
        }
        .into(),
        ins: vec![field("oldfd", Value::Decimal(old as u64))],
        outs: Vec::new(),
        makes: Some(file.name.clone()),
        note: None,
    };
    io::show(world, thread, started, Some(file), shown, (result, now));
}

/// The thread has a table of its own from now on.
pub fn unshare(world: &mut World, thread: &mut Thread) {
    kept::unshared(world, thread.pid);
    let copy = world.tables.shared.copy(thread.table);
    world.tables.shared.leave(thread.table);
    thread.table = copy;
}
