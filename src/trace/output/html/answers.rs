//! Who answers an access of the guest: the kernel, or the VMM by an exit, with or without the
//! device.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Left;
use crate::guest::access::{Access, Space};
use crate::guest::vm::Meaning;

/// The most ranges that are kept.
const MOST: usize = 1 << 12;
/// The most files that are named for a range.
const MOST_FILES: usize = 8;
/// Accesses to memory are counted by page.
const PAGE: u64 = 4096;
/// A guest looks for functions on all 256 buses. Those that are not there are one range: a read of
/// theirs has all bits set (PCI Local Bus 3.0, 6.1).
const NOBODY: &str = "functions that are not there";

/// Accesses that have ended KVM_RUN, or that KVM has kept in its ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trapped {
    /// The first address.
    pub first: u64,
    /// The last address.
    pub last: u64,
    /// Exits.
    pub exits: u64,
    /// Writes in the ring.
    pub coalesced: u64,
    /// What is there for the guest.
    pub what: Option<String>,
    /// Device files that the thread has called before it entered KVM_RUN again, and how often.
    pub passed: BTreeMap<String, u64>,
}

/// A range that the kernel answers without an exit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InKernel {
    /// Ports or memory.
    pub space: Space,
    /// The first address.
    pub first: u64,
    /// The last address.
    pub last: u64,
    /// What answers.
    pub what: String,
}

impl InKernel {
    /// Whether this is the range, no less and no more.
    pub fn is_whole(&self, space: Space, first: u64, size: u64) -> bool {
        self.has(space, first, size) && self.last - self.first == size.max(1) - 1
    }

    /// Whether the range lies in this one.
    pub fn has(&self, space: Space, first: u64, size: u64) -> bool {
        let last = first.saturating_add(size.max(1) - 1);
        self.space == space && self.first <= first && last <= self.last
    }
}

/// The key of trapped accesses: the VM, the space, the page or port, and what is there.
pub type Key = (u32, Space, u64, Option<String>);

/// All answers.
#[derive(Debug, Default)]
pub struct Answers {
    trapped: BTreeMap<Key, Trapped>,
    kernel: BTreeMap<(u32, InKernel), ()>,
    /// The exit that each thread handles.
    handled: BTreeMap<i32, Key>,
    /// The functions that have answered, by VM.
    present: BTreeSet<(u32, String)>,
    /// Accesses for which there was no room.
    pub left_out: u64,
}

impl Answers {
    /// An exit of a thread.
    pub fn exit(&mut self, vm: u32, tid: i32, left: &Left) {
        self.handled.remove(&tid);
        let Some(access) = left.access() else { return };
        if let Some(key) = self.count(vm, access, &left.meaning, |trapped| trapped.exits += 1)
            && self.handled.len() < MOST
        {
            self.handled.insert(tid, key);
        }
    }

    /// A write in KVM's ring.
    pub fn coalesced(&mut self, vm: u32, access: &Access, meaning: &Meaning) {
        self.count(vm, access, meaning, |trapped| trapped.coalesced += 1);
    }

    fn count(
        &mut self,
        vm: u32,
        access: &Access,
        meaning: &Meaning,
        count: impl Fn(&mut Trapped),
    ) -> Option<Key> {
        let (space, at) = (access.register.space, access.register.address);
        let unit = match space {
            Space::Port => at,
            Space::Memory => at / PAGE,
        };
        // Configuration space has all functions behind the same ports.
        let what = match &meaning.function {
            Some(function) if self.is_there(vm, function, access) => Some(function.clone()),
            Some(_) => Some(NOBODY.into()),
            None => meaning.register.clone(),
        };
        let key = (vm, space, unit, what.clone());
        if self.trapped.len() >= MOST && !self.trapped.contains_key(&key) {
            self.left_out += 1;
            return None;
        }
        let last = at.saturating_add(u64::from(access.width.max(1)) - 1);
        let trapped = self.trapped.entry(key.clone()).or_insert(Trapped {
            first: at,
            last,
            what,
            ..Trapped::default()
        });
        trapped.first = trapped.first.min(at);
        trapped.last = trapped.last.max(last);
        count(trapped);
        Some(key)
    }

    /// Whether a function is there, by what has been read until now, at the ports through which
    /// all functions are reached.
    fn is_there(&mut self, vm: u32, function: &str, access: &Access) -> bool {
        let register = access.register;
        if register.space == Space::Memory || register.write {
            return true;
        }
        let key = (vm, function.into());
        let answered = access.data.iter().any(|byte| *byte != 0xff);
        if answered && self.present.len() < MOST {
            self.present.insert(key);
            return true;
        }
        answered || access.data.is_empty() || self.present.contains(&key)
    }

    /// A thread has called a device while it handled an exit.
    pub fn passed(&mut self, tid: i32, file: &str) {
        let key = self.handled.get(&tid);
        let Some(trapped) = key.and_then(|key| self.trapped.get_mut(key)) else {
            return;
        };
        if trapped.passed.len() < MOST_FILES || trapped.passed.contains_key(file) {
            *trapped.passed.entry(file.into()).or_default() += 1;
        }
    }

    /// A thread enters KVM_RUN again.
    pub fn entered(&mut self, tid: i32) {
        self.handled.remove(&tid);
    }

    /// The kernel answers a range from now on.
    pub fn in_kernel(&mut self, vm: u32, space: Space, first: u64, size: u64, what: &str) {
        let last = first.saturating_add(size.max(1) - 1);
        let what = what.into();
        let range = InKernel {
            space,
            first,
            last,
            what,
        };
        if self.kernel.len() < MOST {
            self.kernel.insert((vm, range), ());
        } else {
            self.left_out += 1;
        }
    }

    /// The kernel answers ranges no longer.
    pub fn not_in_kernel(&mut self, vm: u32, gone: impl Fn(&InKernel) -> bool) {
        self.kernel
            .retain(|(of, range), ()| *of != vm || !gone(range));
    }

    /// The trapped accesses of a VM by address. Neighbours of the same meaning are one.
    pub fn trapped(&self, vm: u32) -> Vec<(Space, Trapped)> {
        let of_vm = self.trapped.iter().filter(|((of, ..), _)| *of == vm);
        let mut all: Vec<(Space, Trapped)> = Vec::new();
        for ((_, space, ..), trapped) in of_vm {
            match all.last_mut() {
                Some((before, last)) if before == space && joins(*space, last, trapped) => {
                    last.first = last.first.min(trapped.first);
                    last.last = last.last.max(trapped.last);
                    last.exits += trapped.exits;
                    last.coalesced += trapped.coalesced;
                    for (file, count) in &trapped.passed {
                        *last.passed.entry(file.clone()).or_default() += count;
                    }
                }
                _ => all.push((*space, trapped.clone())),
            }
        }
        all
    }

    /// What the kernel answers of a VM, by address.
    pub fn kernel(&self, vm: u32) -> impl Iterator<Item = &InKernel> {
        let of_vm = self.kernel.keys().filter(move |(of, _)| *of == vm);
        of_vm.map(|(_, range)| range)
    }
}

fn joins(space: Space, last: &Trapped, next: &Trapped) -> bool {
    let unit = match space {
        Space::Port => 1,
        Space::Memory => PAGE,
    };
    last.what == next.what && next.first / unit <= last.last / unit + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::access::Register;
    use crate::guest::run_page::Exit;

    fn access(space: Space, address: u64) -> Access {
        Access {
            register: Register {
                space,
                address,
                write: true,
            },
            width: 4,
            count: 1,
            data: vec![0; 4],
        }
    }

    fn left(space: Space, address: u64, function: &str) -> Left {
        Left {
            result: Some(0),
            immediate: false,
            exit: Some(Exit::Access(access(space, address), None)),
            meaning: Meaning {
                function: Some(function.into()),
                ..Meaning::default()
            },
        }
    }

    #[test]
    fn ranges_that_the_kernel_gives_up_are_gone() {
        let mut answers = Answers::default();
        for vm in [1, 2] {
            answers.in_kernel(vm, Space::Memory, 0x1000, 4, "a");
            answers.in_kernel(vm, Space::Memory, 0x1000, 4, "b");
        }
        answers.not_in_kernel(1, |range| range.what == "a" && range.last == 0x1003);
        let left: Vec<_> = answers
            .kernel
            .keys()
            .map(|(vm, r)| (*vm, &*r.what))
            .collect();
        assert_eq!(left, [(1, "b"), (2, "a"), (2, "b")]);
    }

    #[test]
    fn exits_are_counted_by_what_is_there_and_whom_they_pass_to() {
        let mut answers = Answers::default();
        answers.exit(1, 7, &left(Space::Memory, 0xfe00_0000, "00:03.0"));
        answers.passed(7, "device a");
        answers.entered(7);
        answers.passed(7, "device b");
        answers.exit(1, 7, &left(Space::Memory, 0xfe00_1ffc, "00:03.0"));
        answers.exit(1, 7, &left(Space::Port, 0xcfc, "00:03.0"));
        answers.exit(1, 7, &left(Space::Port, 0xcfc, "00:04.0"));
        answers.coalesced(1, &access(Space::Port, 0x3f8), &Meaning::default());
        answers.exit(2, 8, &left(Space::Port, 0x80, "other"));
        let all = answers.trapped(1);
        let spaces: Vec<_> = all.iter().map(|(s, t)| (*s, t.first, t.last)).collect();
        assert_eq!(
            spaces,
            [
                (Space::Port, 0x3f8, 0x3fb),
                (Space::Port, 0xcfc, 0xcff),
                (Space::Port, 0xcfc, 0xcff),
                (Space::Memory, 0xfe00_0000, 0xfe00_1fff),
            ]
        );
        assert_eq!((all[0].1.exits, all[0].1.coalesced), (0, 1));
        assert_eq!(all[3].1.exits, 2);
        assert_eq!(all[3].1.passed, BTreeMap::from([("device a".into(), 1)]));
    }

    #[test]
    fn functions_that_are_not_there_are_one_range() {
        let read = |function: &str, byte| {
            let mut left = left(Space::Port, 0xcfc, function);
            if let Some(Exit::Access(access, _)) = &mut left.exit {
                access.register.write = false;
                access.data = vec![byte; 4];
            }
            left
        };
        let mut answers = Answers::default();
        for device in 0..10_000 {
            answers.exit(1, 7, &read(&format!("absent {device}"), 0xff));
        }
        answers.exit(1, 7, &read("00:03.0", 0x12));
        // A register with all bits set, of a function that is there; and one of another VM.
        answers.exit(1, 7, &read("00:03.0", 0xff));
        answers.exit(2, 7, &read("00:03.0", 0xff));
        let counts = |vm| {
            let all = answers.trapped(vm).into_iter();
            let counts = all.map(|(_, trapped)| (trapped.what.unwrap(), trapped.exits));
            counts.collect::<Vec<_>>()
        };
        assert_eq!(counts(1), [("00:03.0".into(), 2), (NOBODY.into(), 10_000)]);
        assert_eq!(counts(2), [(NOBODY.into(), 1)]);
        assert_eq!(answers.left_out, 0);
    }

    #[test]
    fn lists_have_a_limit() {
        let mut answers = Answers::default();
        for page in 0..10_000 {
            let at = page * 2 * PAGE;
            answers.exit(1, 7, &left(Space::Memory, at, "x"));
            answers.in_kernel(1, Space::Memory, at, u64::MAX, "x");
        }
        assert_eq!(answers.trapped(1).len(), MOST);
        assert_eq!(answers.kernel(1).count(), MOST);
        assert_eq!(answers.left_out, 2 * (10_000 - MOST as u64));
    }
}
