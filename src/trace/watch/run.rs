//! KVM_RUN: what the guest did, read from the vCPU's mapping in the traced program.
//!
//! A thread stops before KVM_RUN and when KVM_RUN returns, or the kernel keeps what the page says.

use crate::event::{Body, Left};
use crate::files::open_file::FileRef;
use crate::guest::access::Access;
use crate::guest::ring;
use crate::guest::run_page::{self, Exit, IMMEDIATE_EXIT};
use crate::guest::vm::Meaning;
use crate::sys::memory::Blocks;
use crate::watch::maps;
use crate::watch::page::Page;
use crate::watch::thread::{Leaving, Running, Thread};
use crate::watch::world::{SlotMemory, World, event};

/// A thread stops before it enters KVM_RUN of `vcpu`.
pub fn enter(world: &mut World, thread: &mut Thread, vcpu: FileRef, now: u64) -> Running {
    let at = mapping(world, thread, &vcpu);
    let page = at.map(|at| Page::read(thread.tid, at));
    entered(world, thread, vcpu, (at, page.as_ref()), now)
}

/// Where the vCPU's page is in the thread's memory, and the bytes of the mapping.
pub fn mapping(world: &mut World, thread: &Thread, vcpu: &FileRef) -> Option<(u64, u64)> {
    let mappings = world.spaces.get(thread.space);
    let known = mappings.and_then(|mappings| mappings.of(vcpu.id));
    known.or_else(|| find(world, thread, vcpu))
}

/// A thread enters KVM_RUN of `vcpu`, whose page says this.
pub fn entered(
    world: &mut World,
    thread: &mut Thread,
    vcpu: FileRef,
    (at, page): (Option<(u64, u64)>, Option<&Page>),
    now: u64,
) -> Running {
    let left = thread.left.take();
    let read = left.and_then(|left| (left.vcpu == vcpu).then_some(left.read)?);
    match (read, page) {
        (Some((access, offset)), Some(page)) => {
            answer(world, thread, &vcpu, access, offset, page);
        }
        _ => world.out.release(thread.tid),
    }
    world.emit(thread, now, 0, Some(vcpu.clone()), Body::Entered);
    let head = page.and_then(Page::head);
    Running {
        vcpu,
        page: at,
        immediate: head.is_some_and(|head| head[IMMEDIATE_EXIT] != 0),
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
    page: &Page,
) {
    access.data = match offset {
        Some(offset) => {
            let data = page.data(offset);
            data.map_or_else(Vec::new, |data| data[..run_page::kept(&access)].to_vec())
        }
        None => {
            let head = page.head();
            head.map_or_else(Vec::new, |head| run_page::mmio_answer(head, access.width))
        }
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

/// A thread has stopped when KVM_RUN has returned.
pub fn leave(
    world: &mut World,
    thread: &mut Thread,
    running: Running,
    result: i64,
    times: (u64, u64),
) {
    let page = running.page.map(|at| Page::read(thread.tid, at));
    left(world, thread, running, Some(result), times, page.as_ref());
}

/// KVM_RUN has returned, when the page said this. `result` is `None` if the value is not known.
pub fn left(
    world: &mut World,
    thread: &mut Thread,
    running: Running,
    result: Option<i64>,
    (began, now): (u64, u64),
    page: Option<&Page>,
) {
    if let Some(page) = page {
        coalesced(world, thread, &running, page, now);
    }
    let mut left = Left {
        result,
        immediate: running.immediate,
        exit: page.filter(|_| result == Some(0)).and_then(exit),
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

/// The exit of which the page tells.
fn exit(page: &Page) -> Option<Exit> {
    let head = page.head()?;
    Some(match Exit::parse(run_page::reason(head), head) {
        Exit::Access(mut access, Some(offset)) if access.register.write => {
            let data = page.data(offset);
            let kept = run_page::kept(&access);
            access.data = data.map_or_else(Vec::new, |data| data[..kept].to_vec());
            Exit::Access(access, Some(offset))
        }
        exit => exit,
    })
}

/// Shows the writes that KVM has kept since the last look.
fn coalesced(world: &mut World, thread: &Thread, running: &Running, page: &Page, now: u64) {
    let (Some(id), Some(header)) = (running.vcpu.vm, page.ring()) else {
        return;
    };
    world.vm(id, thread.space).ring = Some(page.at());
    look(world, thread, id, page, header, now);
}

fn look(
    world: &mut World,
    thread: &Thread,
    id: u32,
    page: &Page,
    header: [u8; ring::HEADER],
    now: u64,
) {
    let vm = world.vm(id, thread.space);
    // The ring has no count of its rounds, so an older header would look like a new round. Two
    // threads' records may stand in another order than that in which the ring was read.
    let (began, ended) = page.ring_read();
    if began < vm.looked {
        return;
    }
    vm.looked = ended;
    let (first, count) = vm.cursor.new_entries(header);
    vm.cursor.advance(count);
    let ring = Blocks::new(thread.tid);
    for index in first..first + count {
        let Some(entry) = page.entry(index % ring::ENTRIES, &ring) else {
            return;
        };
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

/// Reads the rings of the VMs of this memory.
pub fn rings(world: &World, thread: &Thread) -> Vec<(u32, Page)> {
    let in_space = world.vms.iter().filter(|(_, vm)| vm.space == thread.space);
    let rings = in_space.filter_map(|(id, vm)| Some((*id, Page::ring_of(thread.tid, vm.ring?)?)));
    rings.collect()
}

/// Looks at the rings of the VMs of this memory: a guest may write without an exit, and the traced
/// program then empties the ring at a time of its own.
pub fn look_at_rings(world: &mut World, thread: &Thread, now: u64) {
    let rings = match &world.keeper {
        // They were read before what the kernel had kept then.
        Some(_) => std::mem::take(&mut world.rings),
        None => rings(world, thread),
    };
    for (id, page) in rings {
        if let Some(header) = page.ring() {
            look(world, thread, id, &page, header, now);
        }
    }
}
