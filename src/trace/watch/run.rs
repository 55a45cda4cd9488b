//! KVM_RUN: what the guest did, read from the vCPU's mapping in the traced program.

use crate::decode::value::Memory;
use crate::event::{Body, Left};
use crate::files::open_file::FileRef;
use crate::guest::access::{Access, MOST_DATA};
use crate::guest::ring;
use crate::guest::run_page::{self, Exit, HEAD, IMMEDIATE_EXIT};
use crate::guest::vm::Meaning;
use crate::sys::memory::{Blocks, Remote};
use crate::watch::maps;
use crate::watch::thread::{Leaving, Running, Thread};
use crate::watch::world::{SlotMemory, World, event};

/// Where in a vCPU's mapping the data of a port is (KVM_PIO_PAGE_OFFSET), and the ring
/// (KVM_COALESCED_MMIO_PAGE_OFFSET), on x86.
const DATA: u64 = 4096;
const RING: u64 = 2 * 4096;

/// A thread enters KVM_RUN of `vcpu`.
pub fn enter(world: &mut World, thread: &mut Thread, vcpu: FileRef, now: u64) -> Running {
    let mappings = world.spaces.get(thread.space);
    let known = mappings.and_then(|mappings| mappings.of(vcpu.id));
    let page = known.or_else(|| find(world, thread, &vcpu));
    let left = thread.left.take();
    let read = left.and_then(|left| (left.vcpu == vcpu).then_some(left.read)?);
    let (mut head, mut data) = ([0; HEAD], [0; MOST_DATA]);
    if let Some((at, _)) = page {
        let remote = Remote(thread.tid);
        match &read {
            Some((_, Some(offset))) => {
                let parts = &mut [
                    (at, &mut head[..]),
                    (at.wrapping_add(*offset), &mut data[..]),
                ];
                remote.read_parts(parts)
            }
            _ => remote.read(at, &mut head),
        };
    }
    match read {
        Some((access, offset)) => answer(world, thread, &vcpu, access, offset, &head, &data),
        None => world.out.release(thread.tid),
    }
    world.emit(thread, now, 0, Some(vcpu.clone()), Body::Entered);
    Running {
        vcpu,
        page,
        immediate: head[IMMEDIATE_EXIT] != 0,
    }
}

/// Looks for the page in /proc, and remembers it.
fn find(world: &mut World, thread: &Thread, vcpu: &FileRef) -> Option<(u64, u64)> {
    let number = vcpu.name.rsplit(' ').next()?;
    let (start, len) = maps::find_vcpu(thread.tid, number)?;
    let mappings = world.spaces.get(thread.space)?;
    mappings.add(start, len, vcpu.clone(), 0);
    Some((start, len))
}

/// Completes the exit with the answer to the guest's read.
fn answer(
    world: &mut World,
    thread: &Thread,
    vcpu: &FileRef,
    mut access: Access,
    offset: Option<u64>,
    head: &[u8],
    data: &[u8],
) {
    access.data = match offset {
        Some(_) => data[..run_page::kept(&access)].to_vec(),
        None => run_page::mmio_answer(head, access.width),
    };
    let meaning = meaning(world, thread, vcpu, &access);
    world.out.answer(thread.tid, |event| {
        if let Body::Exit(left) = &mut event.body {
            left.exit = Some(Exit::Access(access, offset));
            left.meaning = meaning;
        }
    });
}

fn meaning(world: &mut World, thread: &Thread, vcpu: &FileRef, access: &Access) -> Meaning {
    let Some(id) = vcpu.vm else {
        return Meaning::default();
    };
    let vm = world.vm(id, thread.space);
    let memory = SlotMemory {
        slots: &vm.slots,
        tid: thread.tid,
    };
    vm.guest.meaning(access, &memory)
}

/// A thread leaves KVM_RUN.
pub fn leave(
    world: &mut World,
    thread: &mut Thread,
    running: Running,
    result: i64,
    began: u64,
    now: u64,
) {
    let (mut head, mut data, mut header) = ([0; HEAD], [0; MOST_DATA], [0; ring::HEADER]);
    let mut read = 0;
    if let Some((at, len)) = running.page {
        let parts = &mut [
            (at, &mut head[..]),
            (at.wrapping_add(DATA), &mut data[..]),
            (at.wrapping_add(RING), &mut header[..]),
        ];
        let count = if len >= RING + 4096 { 3 } else { 2 };
        read = Remote(thread.tid).read_parts(&mut parts[..count]);
    }
    if read == HEAD + MOST_DATA + ring::HEADER {
        coalesced(world, thread, &running, header, now);
    }
    let exit = (result == 0 && read >= HEAD).then(|| Exit::parse(&head));
    let exit = exit.map(|exit| with_data(exit, &data));
    let mut left = Left {
        result,
        immediate: running.immediate,
        exit,
        meaning: Meaning::default(),
    };
    let mut unanswered = None;
    match &left.exit {
        Some(Exit::Access(access, offset)) if !access.register.write => {
            unanswered = Some((access.clone(), *offset));
        }
        Some(Exit::Access(access, _)) => {
            left.meaning = meaning(world, thread, &running.vcpu, access);
        }
        _ => {}
    }
    let took = now.saturating_sub(began);
    let event = event(
        thread,
        now,
        took,
        Some(running.vcpu.clone()),
        Body::Exit(left),
    );
    match unanswered {
        Some(_) => world.out.keep_back(event),
        None => world.out.emit(event),
    }
    thread.left = Some(Leaving {
        vcpu: running.vcpu,
        read: unanswered,
    });
}

fn with_data(exit: Exit, data: &[u8]) -> Exit {
    match exit {
        Exit::Access(mut access, Some(DATA)) if access.register.write => {
            access.data = data[..run_page::kept(&access)].to_vec();
            Exit::Access(access, Some(DATA))
        }
        exit => exit,
    }
}

/// Shows the writes that KVM has kept since the last look.
fn coalesced(
    world: &mut World,
    thread: &Thread,
    running: &Running,
    header: [u8; ring::HEADER],
    now: u64,
) {
    let (Some(id), Some((page, _))) = (running.vcpu.vm, running.page) else {
        return;
    };
    world.vm(id, thread.space).ring = Some(page);
    look(world, thread, id, page, header, now);
}

fn look(
    world: &mut World,
    thread: &Thread,
    id: u32,
    page: u64,
    header: [u8; ring::HEADER],
    now: u64,
) {
    let vm = world.vm(id, thread.space);
    let (first, count) = vm.cursor.new_entries(header);
    vm.cursor.advance(count);
    let ring = Blocks::new(thread.tid);
    for index in first..first + count {
        let mut entry = [0; ring::ENTRY];
        let at = page.wrapping_add(RING + ring::offset(index));
        if ring.read(at, &mut entry) != entry.len() {
            return;
        }
        let access = ring::parse(&entry);
        let vm = world.vm(id, thread.space);
        let memory = SlotMemory {
            slots: &vm.slots,
            tid: thread.tid,
        };
        let meaning = vm.guest.meaning(&access, &memory);
        let file = vm.file.upgrade();
        world.emit(thread, now, 0, file, Body::Coalesced(access, meaning));
    }
}

/// Whether a VM of this memory has a ring that the trace knows.
pub fn has_rings(world: &World, thread: &Thread) -> bool {
    let mut vms = world.vms.values();
    vms.any(|vm| vm.space == thread.space && vm.ring.is_some())
}

/// Looks at the rings of the VMs of this memory: a guest may write without an exit, and the traced
/// program then empties the ring at a time of its own.
pub fn look_at_rings(world: &mut World, thread: &Thread, now: u64) {
    let in_space = world.vms.iter().filter(|(_, vm)| vm.space == thread.space);
    let rings: Vec<_> = in_space
        .filter_map(|(id, vm)| Some((*id, vm.ring?)))
        .collect();
    for (id, page) in rings {
        let mut header = [0; ring::HEADER];
        let read = Remote(thread.tid).read(page.wrapping_add(RING), &mut header);
        if read == header.len() {
            look(world, thread, id, page, header, now);
        }
    }
}
