//! CPUID entries, and constants that several files use.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Extended topology.
pub(super) const LEAF_TOPOLOGY: u32 = 0xb;
/// Extended topology, version 2.
pub(super) const LEAF_TOPOLOGY_V2: u32 = 0x1f;

pub(super) const INTEL: &[u32; 3] = &vendor(b"GenuineIntel");
pub(super) const AMD: &[u32; 3] = &vendor(b"AuthenticAMD");
pub(super) const HYGON: &[u32; 3] = &vendor(b"HygonGenuine");

/// A vendor's name as ebx, edx, ecx of leaf 0.
pub(super) const fn vendor(n: &[u8; 12]) -> [u32; 3] {
    [
        u32::from_le_bytes([n[0], n[1], n[2], n[3]]),
        u32::from_le_bytes([n[4], n[5], n[6], n[7]]),
        u32::from_le_bytes([n[8], n[9], n[10], n[11]]),
    ]
}

/// Sets the registers of an entry.
pub(super) fn set(entry: &mut kvm_cpuid_entry2, [eax, ebx, ecx, edx]: [u32; 4]) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
}

/// CPUID entries, at most one for a function and index.
pub(super) struct Leaves(pub Vec<kvm_cpuid_entry2>);

impl Leaves {
    /// Keeps the first of several entries with the same function and index, as KVM does.
    pub fn new(entries: &[kvm_cpuid_entry2]) -> Self {
        let mut leaves = Self(Vec::with_capacity(entries.len() + 8));
        for entry in entries {
            if leaves.get(entry.function, entry.index).is_none() {
                leaves.0.push(*entry);
            }
        }
        leaves
    }

    /// The entry of a function and index.
    pub fn get(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        self.0
            .iter()
            .find(|e| e.function == function && e.index == index)
    }

    /// Changes the entry of a function and index, if there is one.
    pub fn change(&mut self, function: u32, index: u32, f: impl FnOnce(&mut kvm_cpuid_entry2)) {
        let entry = self
            .0
            .iter_mut()
            .find(|e| e.function == function && e.index == index);
        if let Some(entry) = entry {
            f(entry);
        }
    }

    /// Sets eax, ebx, ecx and edx of an entry, and adds the entry if it is missing. `index` is
    /// `None` for a function that ignores ecx.
    pub fn put(&mut self, function: u32, index: Option<u32>, registers: [u32; 4]) {
        let mut entry = kvm_cpuid_entry2 {
            function,
            index: index.unwrap_or(0),
            flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            ..Default::default()
        };
        set(&mut entry, registers);
        self.0
            .retain(|e| e.function != function || e.index != entry.index);
        self.0.push(entry);
    }

    /// Removes all entries of a function; returns whether there were any.
    pub fn remove(&mut self, function: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|e| e.function != function);
        self.0.len() < before
    }
}
