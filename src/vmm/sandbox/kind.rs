//! The threads of a run, by what they do.

/// A kind of thread. Each has a list of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The main loop: keyboard, signals, the guest's resets, the end of the run.
    Main,
    /// A vCPU.
    Vcpu,
    /// Carries out coalesced writes.
    Coalesced,
    /// Makes guest RAM present and maps it for DMA.
    Memory,
    /// Writes the guest's console to standard output.
    Console,
    /// Hears device events, and interrupts of devices with `irqfd=off`.
    Events,
    /// Takes a device out of the running guest.
    Removal,
    /// Reads and writes the connections of `--api-socket`.
    Api,
    /// Answers queries of `--api-socket`.
    Queries,
    /// Makes the changes that `--api-socket` asks for, such as adding a device; opens the devices
    /// with which the guest begins.
    Changes,
}

use Kind::{Api, Changes, Coalesced, Console, Events, Main, Memory, Queries, Removal, Vcpu};

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Main, Vcpu, Coalesced, Memory, Console, Events, Removal, Api, Queries, Changes,
    ];

    /// The name, as in messages and documents.
    pub fn name(self) -> &'static str {
        match self {
            Main => "main",
            Vcpu => "vcpu",
            Coalesced => "coalesced",
            Memory => "memory",
            Console => "console",
            Events => "events",
            Removal => "removal",
            Api => "api",
            Queries => "queries",
            Changes => "changes",
        }
    }

    /// The kinds of threads that this one starts. A new thread inherits the filters of the thread
    /// that starts it (seccomp_filter.rst), so a list contains the lists of these kinds.
    ///
    /// The main thread starts the vCPUs again at each reset of the guest. Its list therefore has
    /// KVM_RUN, which it never calls.
    pub const fn starts(self) -> &'static [Self] {
        match self {
            Main => &[Vcpu, Coalesced, Console, Events, Memory],
            Vcpu | Coalesced | Removal => &[Console, Events, Removal],
            Events => &[Removal],
            Changes => &[Console, Events, Removal, Memory],
            Memory | Console | Api | Queries => &[],
        }
    }

    /// Whether the list of this kind contains that of `other`.
    pub const fn contains(self, other: Self) -> bool {
        let all = self.with_started(1 << self as u16);
        all & 1 << other as u16 != 0
    }

    /// Whether the list of this kind has a row of these kinds.
    pub const fn has(self, kinds: &[Self]) -> bool {
        let mut index = 0;
        while index < kinds.len() {
            if self.contains(kinds[index]) {
                return true;
            }
            index += 1;
        }
        false
    }

    /// The set `seen`, with the kinds that this one starts, and those that they start.
    const fn with_started(self, mut seen: u16) -> u16 {
        let (kinds, mut index) = (self.starts(), 0);
        while index < kinds.len() {
            let bit = 1 << kinds[index] as u16;
            if seen & bit == 0 {
                seen = kinds[index].with_started(seen | bit);
            }
            index += 1;
        }
        seen
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_contains_those_of_the_threads_it_starts() {
        assert!(Main.contains(Vcpu) && Main.contains(Removal) && Vcpu.contains(Removal));
        assert!(Vcpu.contains(Vcpu) && !Vcpu.contains(Main) && !Api.contains(Console));
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(Kind::from_number(number as u8), Some(kind));
        }
    }
}
