//! KVM_RUN: what the guest did, read from the vCPU's mapping in the traced program.
//!
//! A thread stops when KVM_RUN returns, or, if the kernel records the returns, not before it enters
//! KVM_RUN again or stops for another reason. Only KVM_RUN changes what the page says of an exit,
//! so the page says the same then.

use crate::decode::value::Memory;
use crate::event::{Body, Left};
use crate::files::open_file::FileRef;
use crate::guest::access::Access;
use crate::guest::ring;
use crate::guest::run_page::{self, Exit, IMMEDIATE_EXIT};
use crate::guest::vm::Meaning;
use crate::kernel::returns::Return;
use crate::sys::memory::{Blocks, Remote};
use crate::watch::maps;
use crate::watch::page::{DATA, Page, RING};
use crate::watch::thread::{Leaving, Recorded, Running, Thread, Unseen};
use crate::watch::world::{SlotMemory, World, event};

/// A thread enters KVM_RUN of `vcpu`.
pub fn enter(world: &mut World, thread: &mut Thread, vcpu: FileRef, now: u64) -> Running {
    let mappings = world.spaces.get(thread.space);
    let known = mappings.and_then(|mappings| mappings.of(vcpu.id));
    let at = known.or_else(|| find(world, thread, &vcpu));
    let page = at.map(|at| match thread.page.take() {
        Some(page) if page.at() == at.0 => page,
        _ => Page::read(thread.tid, at),
    });
    let left = thread.left.take();
    let read = left.and_then(|left| (left.vcpu == vcpu).then_some(left.read)?);
    match (read, &page) {
        (Some((access, offset)), Some(page)) => {
            answer(world, thread, &vcpu, access, offset, page);
        }
        _ => world.out.release(thread.tid),
    }
    world.emit(thread, now, 0, Some(vcpu.clone()), Body::Entered);
    let head = page.as_ref().and_then(Page::head);
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
    access.data = match (offset, page.head()) {
        (_, None) => Vec::new(),
        (Some(offset), _) => page.answer(offset)[..run_page::kept(&access)].to_vec(),
        (None, Some(head)) => run_page::mmio_answer(head, access.width),
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

/// Whether the kernel records the thread's returns of KVM_RUN, so that they need not stop it.
pub fn is_recorded(world: &mut World, thread: &mut Thread) -> bool {
    if thread.returns == Recorded::Unknown {
        thread.returns = match world.returns.record(thread.tid) {
            true => Recorded::Yes,
            false => Recorded::No,
        };
    }
    thread.returns == Recorded::Yes
}

/// A thread has stopped after KVM_RUN, whose return made no stop.
pub fn stopped(world: &mut World, thread: &mut Thread, now: u64) {
    thread.page = None;
    if thread.unseen.is_none() || returned(world, thread) {
        return;
    }
    // The call has failed before the kernel records anything (virt/kvm/kvm_main.c,
    // `kvm_vcpu_ioctl`). What follows stops twice, and is known.
    thread.returns = Recorded::No;
    if let Some(Unseen { running, began }) = thread.unseen.take() {
        left(world, thread, running, None, (began, now), None);
    }
}

/// Shows the return of the thread's KVM_RUN if the kernel has recorded it. Returns whether it has.
pub fn returned(world: &mut World, thread: &mut Thread) -> bool {
    let Some((running, began, recorded)) = take(world, thread) else {
        return false;
    };
    let page = running.page.map(|at| Page::read(thread.tid, at));
    let times = (began, recorded.time);
    left(
        world,
        thread,
        running,
        Some(End::of(recorded)),
        times,
        page.as_ref(),
    );
    thread.page = page;
    true
}

/// A thread has ended, or its memory is another program's, before a stop after KVM_RUN. The kernel
/// has recorded the reason; the page is gone.
pub fn ended(world: &mut World, thread: &mut Thread) {
    thread.page = None;
    let last = take(world, thread);
    thread.unseen = None;
    thread.returns = Recorded::Unknown;
    world.returns.forget(thread.tid);
    let Some((running, began, recorded)) = last else {
        return;
    };
    // By what has ended the thread: the program never saw this return.
    if recorded.result == -i64::from(libc::EINTR) {
        return;
    }
    let times = (began, recorded.time);
    left(world, thread, running, Some(End::of(recorded)), times, None);
}

fn take(world: &mut World, thread: &mut Thread) -> Option<(Running, u64, Return)> {
    let began = thread.unseen.as_ref()?.began;
    let recorded = world.returns.take(thread.tid, began)?;
    let Unseen { running, began } = thread.unseen.take()?;
    Some((running, began, recorded))
}

/// How KVM_RUN has ended.
#[derive(Clone, Copy, Debug)]
struct End {
    /// The value, or a negated errno.
    result: i64,
    /// The reason, if the kernel has recorded it.
    reason: Option<u32>,
}

impl End {
    fn of(recorded: Return) -> Self {
        Self {
            result: recorded.result,
            reason: Some(recorded.reason),
        }
    }

    /// The exit, if there was one. The program may have written to the page since.
    fn exit(self, page: Option<&Page>) -> Option<Exit> {
        if self.result != 0 {
            return None;
        }
        let head = page.and_then(|page| Some((page.head()?, page.data())));
        match (head, self.reason) {
            (Some((head, data)), reason) => {
                let reason = reason.unwrap_or_else(|| run_page::reason(head));
                Some(with_data(Exit::parse(reason, head), data))
            }
            (None, Some(reason)) => Some(Exit::Other(reason, Vec::new())),
            (None, None) => None,
        }
    }
}

/// A thread has stopped when KVM_RUN has returned.
pub fn leave(
    world: &mut World,
    thread: &mut Thread,
    running: Running,
    result: i64,
    began: u64,
    now: u64,
) {
    let page = running.page.map(|at| Page::read(thread.tid, at));
    let end = End {
        result,
        reason: None,
    };
    left(
        world,
        thread,
        running,
        Some(end),
        (began, now),
        page.as_ref(),
    );
}

/// KVM_RUN has returned. `end` is `None` if the kernel has not recorded how.
fn left(
    world: &mut World,
    thread: &mut Thread,
    running: Running,
    end: Option<End>,
    (began, now): (u64, u64),
    page: Option<&Page>,
) {
    if let Some(header) = page.and_then(Page::ring) {
        coalesced(world, thread, &running, header, now);
    }
    let mut left = Left {
        result: end.map(|end| end.result),
        immediate: running.immediate,
        exit: end.and_then(|end| end.exit(page)),
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
