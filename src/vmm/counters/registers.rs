//! A table that counts accesses by address. The size is fixed: a guest can fill the table, but
//! cannot make it grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// The spaces of a guest's accesses that leave KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Ports.
    Port,
    /// Guest-physical addresses.
    Memory,
}

/// A counted access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// Ports or memory.
    pub space: Space,
    /// The port or guest-physical address.
    pub address: u64,
    /// Whether it is a store or an `out`.
    pub write: bool,
}

impl Access {
    const USED: u64 = 1 << 63;
    const MEMORY: u64 = 1 << 62;
    const WRITE: u64 = 1 << 61;
    /// Guest-physical addresses have at most 52 bits (SDM volume 3A, 4.1.4).
    const ADDRESS: u64 = (1 << 61) - 1;

    /// The access as a number other than zero.
    fn key(self) -> u64 {
        let memory = if self.space == Space::Memory {
            Self::MEMORY
        } else {
            0
        };
        let write = if self.write { Self::WRITE } else { 0 };
        Self::USED | memory | write | self.address & Self::ADDRESS
    }

    fn from_key(key: u64) -> Self {
        Self {
            space: if key & Self::MEMORY != 0 {
                Space::Memory
            } else {
                Space::Port
            },
            address: key & Self::ADDRESS,
            write: key & Self::WRITE != 0,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// [`Access::key`], written once; zero while the entry is free.
    key: AtomicU64,
    count: AtomicU64,
}

/// The table: one counter for each [`Access`]. One thread counts. Any thread may read the counters.
#[derive(Debug)]
pub struct RegisterTable {
    entries: Box<[Entry]>,
    others: AtomicU64,
}

/// Entries of the table: twice the number of registers that a Linux guest with a handful of devices
/// accesses; 16 KiB.
const SIZE: usize = 1024;
/// How many entries are tried for an access, from the index that its key hashes to.
const PROBES: usize = 16;

impl Default for RegisterTable {
    fn default() -> Self {
        Self {
            entries: (0..SIZE).map(|_| Entry::default()).collect(),
            others: AtomicU64::new(0),
        }
    }
}

/// Adds one to a counter that only this thread writes, without a locked instruction.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl RegisterTable {
    /// Counts one access. Only one thread may call this.
    pub fn count(&self, access: Access) {
        let key = access.key();
        // Fibonacci hashing: the high bits of a product with 2^64 divided by the golden ratio.
        let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize;
        for probe in 0..PROBES {
            let Some(entry) = self.entries.get((first + probe) % SIZE) else {
                break;
            };
            let found = entry.key.load(Ordering::Relaxed);
            if found == 0 {
                entry.key.store(key, Ordering::Relaxed);
            }
            if found == 0 || found == key {
                return add_one(&entry.count);
            }
        }
        add_one(&self.others);
    }

    /// The accesses with their counts, in any order.
    pub fn list(&self) -> Vec<(Access, u64)> {
        let load = |entry: &Entry| {
            (
                entry.key.load(Ordering::Relaxed),
                entry.count.load(Ordering::Relaxed),
            )
        };
        let used = self.entries.iter().map(load);
        used.filter(|(key, count)| *key != 0 && *count != 0)
            .map(|(key, count)| (Access::from_key(key), count))
            .collect()
    }

    /// The number of accesses that the full table could not count.
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(space: Space, address: u64, write: bool) -> Access {
        Access {
            space,
            address,
            write,
        }
    }

    #[test]
    fn each_access_has_its_own_count() {
        let table = RegisterTable::default();
        let all = [
            access(Space::Port, 0, false),
            access(Space::Port, 0, true),
            access(Space::Memory, 0, false),
            access(Space::Memory, (1 << 52) - 1, true),
        ];
        for (n, access) in (1..).zip(all) {
            (0..n).for_each(|_| table.count(access));
        }
        let mut list = table.list();
        list.sort_by_key(|(_, count)| *count);
        let expected: Vec<_> = all.into_iter().zip(1..).collect();
        assert_eq!(list, expected);
        assert_eq!(table.others(), 0);
    }

    #[test]
    fn a_guest_that_touches_everything_fills_it_and_no_more() {
        let table = RegisterTable::default();
        for address in 0..1_000_000 {
            table.count(access(Space::Memory, address * 4, false));
        }
        let list = table.list();
        assert!(
            list.len() <= SIZE && list.len() > SIZE / 2,
            "{}",
            list.len()
        );
        let counted: u64 = list.iter().map(|(_, count)| count).sum();
        assert_eq!(counted + table.others(), 1_000_000);
    }
}
