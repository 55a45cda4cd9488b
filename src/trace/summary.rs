//! The counts at the end of a trace.

use std::collections::HashMap;

use crate::event::{Body, Event};
use crate::guest::access::Register;
use crate::guest::vm::Meaning;
use crate::kernel::order::Losses;
use crate::kernel::source::LOST;

/// The most registers and kinds of calls that are counted one by one.
const MOST: usize = 1 << 16;

/// The calls of one name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// How many.
    pub count: u64,
    /// How many have failed.
    pub errors: u64,
    /// Their time in nanoseconds.
    pub ns: u64,
}

/// The accesses to one register.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accesses {
    /// Exits.
    pub exits: u64,
    /// Writes that KVM has kept in its ring.
    pub coalesced: u64,
}

/// All counts.
#[derive(Debug, Default)]
pub struct Summary {
    /// Calls by name.
    pub calls: HashMap<String, Calls>,
    /// Returns of KVM_RUN by reason, without those with `immediate_exit`.
    pub reasons: HashMap<&'static str, u64>,
    /// Returns of KVM_RUN with `immediate_exit`.
    pub immediate: u64,
    /// Accesses by register.
    pub registers: HashMap<Register, Accesses>,
    /// Accesses by the name of the register in the guest, and direction: configuration space has
    /// many registers behind each port.
    pub names: HashMap<(String, bool), Accesses>,
    /// Accesses to registers for which there was no room.
    pub other_registers: u64,
    /// Writes that KVM has kept in its ring.
    pub coalesced: u64,
    /// Calls whose numbers are not known.
    pub unknown: u64,
    /// Events of the kernel's own, by name.
    pub kernel: HashMap<&'static str, u64>,
    /// What was lost or shown late, with `--kernel`.
    pub losses: Option<Losses>,
}

impl Summary {
    /// Counts an event.
    pub fn count(&mut self, event: &Event) {
        match &event.body {
            Body::Call(call) => {
                self.unknown += u64::from(!call.known);
                let fits = self.calls.len() < MOST;
                if let Some(calls) = self.calls.get_mut(call.name.as_ref()) {
                    calls.add(event.took, call.result < 0);
                } else if fits {
                    let calls = self.calls.entry(call.name.to_string()).or_default();
                    calls.add(event.took, call.result < 0);
                }
            }
            Body::Exit(left) if left.immediate => self.immediate += 1,
            Body::Exit(left) => {
                *self.reasons.entry(left.word()).or_default() += 1;
                if let Some(access) = left.access() {
                    self.access(access.register, &left.meaning, |accesses| {
                        accesses.exits += 1
                    });
                }
            }
            Body::Coalesced(access, meaning) => {
                self.coalesced += 1;
                self.access(access.register, meaning, |accesses| accesses.coalesced += 1);
            }
            // The number of lost records stands by itself.
            Body::Kernel(happened) if happened.name == LOST => {}
            Body::Kernel(happened) => *self.kernel.entry(happened.name).or_default() += 1,
            Body::Entered | Body::Process(_) => {}
        }
    }

    fn access(&mut self, register: Register, meaning: &Meaning, count: impl Fn(&mut Accesses)) {
        if self.registers.len() < MOST || self.registers.contains_key(&register) {
            count(self.registers.entry(register).or_default());
        } else {
            self.other_registers += 1;
        }
        let name = match meaning.label() {
            Some(name) => (name, register.write),
            None => (format!("{:#x}", register.address), register.write),
        };
        if self.names.len() < MOST || self.names.contains_key(&name) {
            count(self.names.entry(name).or_default());
        }
    }

    /// Exits of all reasons.
    pub fn total(&self) -> u64 {
        self.reasons.values().sum()
    }

    /// The calls, those of the longest time first.
    pub fn calls(&self) -> Vec<(&str, Calls)> {
        let all = self
            .calls
            .iter()
            .map(|(name, calls)| (name.as_str(), *calls));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(name, calls)| (std::cmp::Reverse(calls.ns), *name));
        all
    }

    /// The registers, the most frequent first.
    pub fn registers(&self) -> Vec<(Register, Accesses)> {
        sorted(&self.registers)
    }

    /// The names and directions of registers, the most frequent first.
    pub fn names(&self) -> Vec<((String, bool), Accesses)> {
        sorted(&self.names)
    }

    /// The events of the kernel's own by name.
    pub fn kernel(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> = self.kernel.iter().map(|(name, n)| (*name, *n)).collect();
        all.sort_unstable();
        all
    }

    /// The reasons by name.
    pub fn reasons(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> = self.reasons.iter().map(|(word, n)| (*word, *n)).collect();
        all.sort_unstable();
        all
    }
}

impl Calls {
    fn add(&mut self, ns: u64, failed: bool) {
        self.count += 1;
        self.errors += u64::from(failed);
        self.ns += ns;
    }
}

fn sorted<K: Clone + Ord>(of: &HashMap<K, Accesses>) -> Vec<(K, Accesses)> {
    let mut all: Vec<_> = of
        .iter()
        .map(|(key, accesses)| (key.clone(), *accesses))
        .collect();
    all.sort_by(|(a, x), (b, y)| {
        let count = |accesses: &Accesses| accesses.exits + accesses.coalesced;
        count(y).cmp(&count(x)).then_with(|| a.cmp(b))
    });
    all
}
