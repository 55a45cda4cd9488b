//! Calls that the kernel keeps, in place of stops: KVM_RUN and KVM_IRQ_LINE.

use crate::decode::value::{Kind, Memory};
use crate::event::Body;
use crate::files::open_file::{FileKind, FileRef};
use crate::guest::run_page::{self, IMMEDIATE_EXIT};
use crate::kernel::kept::{Mapped, Record};
use crate::kernel::program::RUN;
use crate::sys::memory::Blocks;
use crate::watch::page::Page;
use crate::watch::thread::{Ended, Running, Started, Thread, What};
use crate::watch::world::World;
use crate::watch::{ioctl, run};

/// What an argument has led to.
struct Bytes<'a>(u64, &'a [u8]);

impl Memory for Bytes<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let skipped = address.checked_sub(self.0).map(|skipped| skipped as usize);
        let bytes = skipped.and_then(|skipped| self.1.get(skipped..));
        let bytes = bytes.unwrap_or_default();
        let len = bytes.len().min(into.len());
        into[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

/// The process has a vCPU's mapping there, and this descriptor of the vCPU. Reads the mapping, so
/// that its pages are there for the kernel.
fn maps(world: &mut World, thread: &Thread, fd: i32, vcpu: u32, at: (u64, u64)) {
    if let Some(keeper) = &mut world.keeper {
        let page = Page::read(thread.tid, at);
        let next = page.ring().and_then(|ring| ring.last_chunk().copied());
        let mapped = Mapped {
            vcpu,
            at: at.0,
            ring: next.map(u32::from_ne_bytes),
            reason: page.head().map_or(0, run_page::reason),
        };
        keeper.maps((thread.pid, thread.tid), fd, &mapped);
    }
}

/// The process has a new descriptor, or a new mapping, of a file.
pub fn has(world: &mut World, thread: &Thread, fd: i32, file: &FileRef) {
    let mappings = world.spaces.get(thread.space);
    if file.kind == FileKind::Calls(Kind::Vcpu)
        && let Some(at) = mappings.and_then(|mappings| mappings.of(file.id))
    {
        maps(world, thread, fd, file.id, at);
    }
}

/// The process has changed its mappings.
pub fn remapped(world: &mut World, thread: &Thread) {
    let Some(keeper) = &mut world.keeper else {
        return;
    };
    for (fd, vcpu, before) in keeper.mapped(thread.pid) {
        let mappings = world.spaces.get(thread.space);
        match mappings.and_then(|mappings| mappings.of(vcpu)) {
            Some(at) if at.0 == before => {}
            Some(at) => maps(world, thread, fd, vcpu, at),
            None => closed(world, thread, fd),
        }
    }
}

/// A thread of the process has descriptors of its own.
pub fn unshared(world: &mut World, pid: i32) {
    if let Some(keeper) = &mut world.keeper {
        keeper.unshared(pid);
    }
}

/// The process has closed a range of descriptors.
pub fn closed_range(world: &mut World, thread: &Thread, first: u32, last: u32) {
    let mapped = world.keeper.as_mut().map(|k| k.mapped(thread.pid));
    for (fd, ..) in mapped.into_iter().flatten() {
        if (first..=last).contains(&fd.cast_unsigned()) {
            closed(world, thread, fd);
        }
    }
}

/// The process has closed a descriptor.
pub fn closed(world: &mut World, thread: &Thread, fd: i32) {
    if let Some(keeper) = &mut world.keeper {
        keeper.closed((thread.pid, thread.tid), fd);
    }
}

/// The kernel has kept the start or the end of a call.
pub fn record(world: &mut World, thread: &mut Thread, mut record: Record) {
    thread.stops |= record.stops;
    // The thread has gone on. If something has lacked, it has stopped before.
    show(world, thread, false);
    if record.lost {
        no_room(world, thread, record.time);
    }
    let kept = thread.kept.take();
    let Some(result) = record.result else {
        // The end of the call before had no room.
        if let Some(before) = kept {
            no_room(world, thread, record.time);
            if let What::Run(running) = before.what {
                let times = (before.time, record.time);
                run::left(world, thread, running, None, times, None);
            }
        }
        thread.kept = Some(start(world, thread, &mut record));
        return;
    };
    let started = match kept.filter(|kept| kept.args[1] as u32 == record.command) {
        Some(started) => started,
        None if record.lost => start(world, thread, &mut record.call()),
        // A filter of the program's own has refused the call.
        None => return,
    };
    let page = match &started.what {
        What::Run(Running { page: Some(at), .. }) if at.0 == record.page => {
            Some(Page::kept(&mut record, at.0))
        }
        // Another process has changed the mappings of this one.
        What::Run(Running {
            page: Some(at),
            vcpu,
            ..
        }) if record.page != 0 => {
            maps(world, thread, record.fd, vcpu.id, *at);
            None
        }
        _ => None,
    };
    thread.ended = Some(Ended {
        started,
        result,
        time: record.time,
        page,
        bytes: record.bytes,
        lacks: record.lacks,
    });
    // A thread that a signal ends has not seen the call's end.
    if result != -i64::from(libc::EINTR) && !record.lacks {
        show(world, thread, false);
    }
}

fn no_room(world: &mut World, thread: &Thread, time: u64) {
    let text = "the kernel has lost a record of a call: its buffer was full";
    world.emit(thread, time, 0, None, Body::Process(text.into()));
}

fn start(world: &mut World, thread: &mut Thread, record: &mut Record) -> Started {
    let args = [
        record.fd as u64,
        record.command.into(),
        record.argument,
        0,
        0,
        0,
    ];
    let file = world.tables.file(thread.table, thread.tid, record.fd);
    let what = match file.map(|file| (file.kind, file)) {
        Some((FileKind::Calls(Kind::Vcpu), vcpu)) if record.command == RUN => {
            let mappings = world.spaces.get(thread.space);
            let at = mappings.and_then(|mappings| mappings.of(vcpu.id));
            let page = at.filter(|at| at.0 == record.page);
            let page = page.map(|at| Page::kept(record, at.0));
            let time = record.time;
            What::Run(run::entered(world, thread, vcpu, (at, page.as_ref()), time))
        }
        Some((FileKind::Calls(kind), file)) => {
            let bytes = record.bytes.unwrap_or_default();
            let known = record.bytes.map_or(0, |bytes| bytes.len());
            let memory = Bytes(record.argument, &bytes[..known]);
            What::Ioctl(file, ioctl::fields(kind, args, &memory))
        }
        _ => What::Plain,
    };
    Started {
        number: libc::SYS_ioctl as u64,
        args,
        time: record.time,
        what,
    }
}

/// Shows the call that has ended, if it is not shown. If the thread has stopped since, what lacks
/// is read now.
pub fn show(world: &mut World, thread: &mut Thread, stopped: bool) {
    let Some(mut ended) = thread.ended.take() else {
        return;
    };
    let reads = stopped && ended.lacks;
    let what = std::mem::replace(&mut ended.started.what, What::Plain);
    let (started, result, time) = (ended.started, ended.result, ended.time);
    match what {
        What::Run(mut running) => {
            let mut page = ended.page;
            if reads && let Some(at) = run::mapping(world, thread, &running.vcpu) {
                let first = page.is_none();
                let fd = started.args[0] as i32;
                maps(world, thread, fd, running.vcpu.id, at);
                let read = Page::read(thread.tid, at);
                // Of the start of the call, nothing was read.
                let flag = read.head().map(|head| head[IMMEDIATE_EXIT]);
                running.immediate |= first && result < 0 && flag.is_some_and(|flag| flag != 0);
                // The ring may have gone on since records that are not taken yet.
                page = Some(read.without_ring());
            }
            let times = (started.time, time);
            run::left(world, thread, running, Some(result), times, page.as_ref());
        }
        What::Ioctl(file, ins) => {
            let bytes = ended.bytes.unwrap_or_default();
            let known = ended.bytes.map_or(0, |bytes| bytes.len());
            let kept = Bytes(started.args[2], &bytes[..known]);
            let read = Blocks::new(thread.tid);
            let memory: &dyn Memory = if reads { &read } else { &kept };
            let call = (file, ins);
            ioctl::left(world, thread, &started, call, (result, time), memory);
        }
        _ => {}
    }
}

/// A thread has ended, or has other memory.
pub fn ended(world: &mut World, thread: &mut Thread) {
    let ended = thread.ended.as_ref();
    // By what has ended the thread: the program never saw this return.
    if ended.is_some_and(|ended| ended.result != -i64::from(libc::EINTR)) {
        show(world, thread, false);
    }
    thread.ended = None;
    thread.kept = None;
    thread.stops = false;
}
