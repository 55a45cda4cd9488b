//! System calls by number: what is done at the start and at the end of each.

use libc::c_long;

use crate::decode::value::Memory;
use crate::sys::memory::Remote;
use crate::watch::descriptors::{self, CLONE_FILES};
use crate::watch::thread::{Started, Thread, What};
use crate::watch::world::World;
use crate::watch::{io, ioctl, memory, passed, run};

/// The least time between two looks at the rings of guests that make no exit.
const RING_INTERVAL: u64 = 500_000;
/// CLONE_VM and CLONE_VFORK of sched.h.
const VFORK: u64 = 0x100 | 0x4000;

/// The calls of which something is done here. A seccomp filter stops at these, and at some of
/// mmap(2), fcntl(2), futex(2), read(2) and write(2).
pub const WATCHED: [c_long; 25] = [
    libc::SYS_ioctl,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_eventfd,
    libc::SYS_eventfd2,
    libc::SYS_pidfd_getfd,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_unshare,
    libc::SYS_exit_group,
];

/// A call begins. Returns whether something is done at its end.
pub fn enter(
    world: &mut World,
    thread: &mut Thread,
    number: u64,
    args: [u64; 6],
    now: u64,
) -> bool {
    let call = i64::try_from(number).unwrap_or(-1);
    let what = match call {
        libc::SYS_ioctl => ioctl::enter(world, thread, args, now),
        libc::SYS_read | libc::SYS_write | libc::SYS_pread64 | libc::SYS_pwrite64 => {
            io::enter(world, thread, args)
        }
        libc::SYS_close => descriptors::closing(world, thread, args),
        libc::SYS_munmap | libc::SYS_mremap | libc::SYS_madvise => {
            memory::changes(world, thread, args).map_or(What::Plain, What::Memory)
        }
        libc::SYS_sendmsg => passed::sending(world, thread, args),
        libc::SYS_clone => What::Clone(args[0]),
        libc::SYS_clone3 => What::Clone(clone3_flags(thread, args[0])),
        libc::SYS_fork => What::Clone(0),
        libc::SYS_vfork => What::Clone(VFORK),
        libc::SYS_exit_group | libc::SYS_futex => {
            look_at_rings(world, thread, now, number == libc::SYS_exit_group as u64);
            What::Plain
        }
        _ => What::Plain,
    };
    let is_waited_for = !matches!(what, What::Plain) || matters(world, thread, call, args);
    thread.call = Some(Started {
        number,
        args,
        time: now,
        what,
    });
    is_waited_for
}

/// Whether something is done at the end of a call at whose start there was nothing to keep.
fn matters(world: &mut World, thread: &Thread, call: i64, args: [u64; 6]) -> bool {
    match call {
        libc::SYS_mmap => memory::may_map(world, thread, args),
        libc::SYS_open => io::may_make(thread, args[0]),
        libc::SYS_openat | libc::SYS_openat2 => io::may_make(thread, args[1]),
        libc::SYS_futex => run::has_rings(world, thread),
        libc::SYS_eventfd
        | libc::SYS_eventfd2
        | libc::SYS_pidfd_getfd
        | libc::SYS_dup
        | libc::SYS_dup2
        | libc::SYS_dup3
        | libc::SYS_fcntl
        | libc::SYS_recvmsg
        | libc::SYS_close_range
        | libc::SYS_unshare => true,
        _ => false,
    }
}

/// The flags of clone3(2) are the first member of its structure.
fn clone3_flags(thread: &Thread, at: u64) -> u64 {
    let mut flags = [0; 8];
    Remote(thread.tid).read(at, &mut flags);
    u64::from_le_bytes(flags)
}

fn look_at_rings(world: &mut World, thread: &Thread, now: u64, last: bool) {
    if last || now >= world.ring_look {
        world.ring_look = now + RING_INTERVAL;
        run::look_at_rings(world, thread, now);
    }
}

/// A thread has stopped at a call of this number at which rings are looked at. Reads them before
/// what the kernel has kept until then is taken: a ring that has gone on since cannot be
/// understood.
pub fn read_rings(world: &mut World, thread: &Thread, number: u64, now: u64) {
    let last = number == libc::SYS_exit_group as u64;
    if last || (number == libc::SYS_futex as u64 && now >= world.ring_look) {
        world.rings = run::rings(world, thread);
    }
}

/// A call has ended.
pub fn leave(world: &mut World, thread: &mut Thread, result: i64, now: u64) {
    let Some(mut started) = thread.call.take() else {
        return;
    };
    let what = std::mem::replace(&mut started.what, What::Plain);
    let number = i64::try_from(started.number).unwrap_or(-1);
    match (number, what) {
        (_, What::Run(running)) => {
            run::leave(world, thread, running, result, (started.time, now));
        }
        (_, What::Ioctl(file, ins)) => {
            ioctl::leave(world, thread, &started, (file, ins), (result, now));
        }
        (libc::SYS_close, what) => {
            let file = match what {
                What::File(file) => Some(file),
                _ => None,
            };
            descriptors::closed(world, thread, &started, file, (result, now));
        }
        (_, What::Message(number)) => passed::sent(world, number, result),
        (_, What::File(file)) => io::leave(world, thread, &started, file, (result, now)),
        (_, What::Memory(span)) => {
            memory::changed(world, thread, &started, span, result, now);
        }
        (number, _) => plain(world, thread, &started, number, result, now),
    }
}

fn plain(
    world: &mut World,
    thread: &mut Thread,
    started: &Started,
    number: i64,
    result: i64,
    now: u64,
) {
    match number {
        libc::SYS_mmap => memory::mapped(world, thread, started, result, now),
        libc::SYS_open
        | libc::SYS_openat
        | libc::SYS_openat2
        | libc::SYS_eventfd
        | libc::SYS_eventfd2
        | libc::SYS_pidfd_getfd => io::made(world, thread, started, result, now),
        libc::SYS_dup | libc::SYS_dup2 | libc::SYS_dup3 => {
            descriptors::duplicated(world, thread, started, result, now);
        }
        libc::SYS_fcntl
            if matches!(
                started.args[1] as i32,
                libc::F_DUPFD | libc::F_DUPFD_CLOEXEC
            ) =>
        {
            descriptors::duplicated(world, thread, started, result, now);
        }
        libc::SYS_recvmsg => passed::received(world, thread, started.args, result),
        libc::SYS_close_range => {
            descriptors::closed_range(world, thread, started.args, result);
        }
        libc::SYS_unshare if result == 0 && started.args[0] & CLONE_FILES != 0 => {
            descriptors::unshare(world, thread);
        }
        libc::SYS_futex => look_at_rings(world, thread, now, false),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    /// The names of calls in a text, each once.
    fn named(text: &str) -> Vec<&str> {
        let mut names: Vec<_> = text
            .split("libc::SYS_")
            .skip(1)
            .filter_map(|rest| {
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn a_filter_stops_at_all_that_is_looked_at() {
        let text = include_str!("calls.rs");
        let (list, rest) = text.split_once("];").unwrap();
        let (code, _) = rest.split_once("cfg(test)").unwrap();
        let by_arguments = ["mmap", "fcntl", "futex", "read", "write"];
        let mut stopped = [named(list), by_arguments.to_vec()].concat();
        stopped.sort_unstable();
        assert_eq!(stopped, named(code));
    }
}
