//! sendmsg(2) and recvmsg(2), which take descriptors to another process (SCM_RIGHTS; unix(7)).

use crate::decode::value::Memory;
use crate::files::identify;
use crate::sys::memory::Remote;
use crate::watch::thread::{Thread, What};
use crate::watch::world::World;

/// Bytes of control messages that are looked at: SCM_MAX_FD descriptors are 1,012 bytes.
const CONTROL: usize = 2048;
/// Bytes of `struct cmsghdr`, to which each message is aligned.
const HEADER: usize = 16;
/// The flag of recvmsg(2) with which the message stays.
const MSG_PEEK: u64 = 2;
/// SOL_SOCKET and SCM_RIGHTS.
const RIGHTS: [u32; 2] = [1, 1];

/// sendmsg(2) begins: its message may arrive before the call ends.
pub fn sending(world: &mut World, thread: &Thread, args: [u64; 6]) -> What {
    let descriptors = rights(&Remote(thread.tid), args[1]);
    let files = descriptors.iter();
    let files = files.map(|fd| world.tables.file(thread.table, thread.tid, *fd));
    let files: Vec<_> = files.collect();
    if files.iter().all(Option::is_none) {
        return What::Plain;
    }
    let socket = identify::link(thread.tid, args[0] as i32);
    What::Message(world.under_way.send(socket, files))
}

/// sendmsg(2) has ended.
pub fn sent(world: &mut World, number: u64, result: i64) {
    if result < 0 {
        world.under_way.forget(number);
    }
}

/// recvmsg(2) has ended.
pub fn received(world: &mut World, thread: &Thread, args: [u64; 6], result: i64) {
    if result < 0 || world.under_way.is_empty() {
        return;
    }
    let descriptors = rights(&Remote(thread.tid), args[1]);
    let seen = descriptors.iter().map(|fd| identify::look(thread.tid, *fd));
    let seen: Vec<_> = seen.collect();
    let peek = args[2] & MSG_PEEK != 0;
    let Some(files) = world.under_way.take(&seen, peek) else {
        return;
    };
    for (fd, file) in descriptors.into_iter().zip(files) {
        world.tables.received(thread.table, (thread.tid, fd), file);
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The descriptors in the control messages of a `struct msghdr`.
fn rights(memory: &dyn Memory, message: u64) -> Vec<i32> {
    let mut header = [0; 16];
    // `msg_control` and `msg_controllen`.
    let read = memory.read(message.wrapping_add(32), &mut header);
    let (at, len) = header.split_at(8);
    let at = u64::from_le_bytes(at.try_into().unwrap_or_default());
    let len = u64::from_le_bytes(len.try_into().unwrap_or_default());
    let len = usize::try_from(len).unwrap_or(CONTROL).min(CONTROL);
    if read < header.len() || at == 0 || len < HEADER {
        return Vec::new();
    }
    let mut control = vec![0; len];
    let read = memory.read(at, &mut control);
    descriptors(&control[..read])
}

fn descriptors(control: &[u8]) -> Vec<i32> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(len) = number(control, at).map(u64::from_le_bytes) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let kind = [8, 12].map(|offset| number(control, at + offset).map(u32::from_le_bytes));
        if len < HEADER {
            break;
        }
        let end = at.saturating_add(len).min(control.len());
        if kind == RIGHTS.map(Some) {
            let data = control.get(at + HEADER..end).unwrap_or_default();
            let numbers = data.chunks_exact(4).filter_map(|fd| number(fd, 0));
            all.extend(numbers.map(i32::from_le_bytes));
        }
        let Some(next) = at.saturating_add(len).checked_next_multiple_of(8) else {
            break;
        };
        at = next;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(parts: &[(u64, u32, u32, &[i32])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (len, level, kind, data) in parts {
            bytes.extend(len.to_le_bytes());
            bytes.extend(level.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            data.iter().for_each(|fd| bytes.extend(fd.to_le_bytes()));
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    #[test]
    fn control_messages() {
        let text = control(&[(20, 1, 2, &[7]), (24, 1, 1, &[3, 4]), (20, 1, 1, &[5])]);
        assert_eq!(descriptors(&text), [3, 4, 5]);
        assert_eq!(descriptors(&text[..text.len() - 8]), [3, 4]);
        for len in [0, 15, u64::MAX, u64::MAX - 7] {
            let text = control(&[(len, 1, 1, &[3, 4])]);
            assert!(descriptors(&text).len() <= 2);
        }
    }
}
