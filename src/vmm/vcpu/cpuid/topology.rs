//! The leaves that describe which vCPUs share a core, a cache and a socket.
//!
//! A guest may read several leaves, and all of them must give the same answer (SDM volume 3A, 9.9;
//! AMD APM volume 3, appendix E.5). Some leaves give the bits of an APIC ID that number the threads
//! of a core or the processors of a socket. Others give a count. A count counts APIC IDs, unused
//! IDs included, unless the vendor's manual defines it as a count of processors.

use crate::config::topology::Topology;
use crate::vcpu::cpuid::leaves::{LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2, Leaves, set};

const EDX1_HTT: u32 = 1 << 28;
/// Leaf 0x80000001: CMP_LEGACY and TOPOEXT (AMD APM volume 3, E.4.2).
const ECX_AMD_CMP_LEGACY: u32 = 1 << 1;
const ECX_AMD_TOPOEXT: u32 = 1 << 22;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

/// One vCPU and its position in the topology.
pub(super) struct VcpuPosition<'a> {
    pub topology: &'a Topology,
    pub vcpu: u32,
}

impl VcpuPosition<'_> {
    fn apic_id(&self) -> u32 {
        self.topology.apic_id(self.vcpu).into()
    }

    /// Changes all leaves that describe the topology. `amd` is set for a processor of AMD or Hygon;
    /// `max_leaf` is the last standard leaf.
    pub fn describe(&self, leaves: &mut Leaves, max_leaf: u32, amd: bool) {
        self.leaf_1(leaves, amd);
        self.caches(leaves);
        self.leaf_0xb(leaves, max_leaf);
        if amd {
            self.amd(leaves);
        }
        // AMD's newest topology leaf. Without it guests use the older leaves.
        leaves.remove(0x8000_0026);
    }

    /// Leaf 1: ebx 31:24 is the APIC ID. ebx 23:16 counts the APIC IDs of a socket (Intel: SDM
    /// volume 2A, CPUID) or the threads of a socket (AMD APM volume 3, E.3.2), and is valid if HTT
    /// is set.
    fn leaf_1(&self, leaves: &mut Leaves, amd: bool) {
        let threads = self.topology.threads_per_socket();
        let count = match amd {
            true => threads,
            // The field ends at 255. Guests with more IDs have leaf 0xB.
            false => (1 << self.topology.socket_shift()).min(0xff),
        };
        leaves.change(1, 0, |e| {
            e.ebx = (e.ebx & 0xffff) | count << 16 | self.apic_id() << 24;
            e.edx &= !EDX1_HTT;
            if threads > 1 {
                e.edx |= EDX1_HTT;
            }
        });
    }

    /// Leaf 4 (Intel) and 0x8000001D (AMD) have the same fields: bits 4:0 are the type, 7:5 the
    /// level, 25:14 the number of APIC IDs that share the cache, less one, and for Intel 31:26 the
    /// number of core IDs in the socket, less one. A core has its own L1 and L2; the socket's cores
    /// share the other levels.
    fn caches(&self, leaves: &mut Leaves) {
        let below = |bits: u32| (1 << bits) - 1;
        for e in &mut leaves.0 {
            if !matches!(e.function, 4 | 0x8000_001d) || e.eax & 0x1f == 0 {
                continue;
            }
            let sharing = match e.eax >> 5 & 7 {
                0..=2 => below(self.topology.thread_bits()),
                _ => below(self.topology.socket_shift()),
            };
            let cores: u32 = match e.function {
                4 => below(self.topology.core_bits()),
                _ => 0,
            };
            e.eax = (e.eax & 0x3fff) | sharing << 14 | cores.min(0x3f) << 26;
        }
    }

    /// Leaf 0xB, and 0x1F if the processor has it: one level for the threads of a core, one for the
    /// threads of a socket, and the end. eax is the number of bits by which an x2APIC ID is shifted
    /// right to get the id of the next level; ebx is the number of processors below that level.
    fn leaf_0xb(&self, leaves: &mut Leaves, max_leaf: u32) {
        const SMT: u32 = 1 << 8;
        const CORE: u32 = 2 << 8;
        let (topology, id) = (self.topology, self.apic_id());
        for function in [LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2] {
            let present = leaves.remove(function);
            if max_leaf < function || (function == LEAF_TOPOLOGY_V2 && !present) {
                continue;
            }
            let levels = [
                [topology.thread_bits(), topology.threads(), SMT, id],
                [
                    topology.socket_shift(),
                    topology.threads_per_socket(),
                    CORE | 1,
                    id,
                ],
                [0, 0, 2, id],
            ];
            for (index, registers) in (0..).zip(levels) {
                leaves.put(function, Some(index), registers);
            }
        }
    }

    /// AMD APM volume 3, E.4.2, E.4.7 and E.4.17.
    fn amd(&self, leaves: &mut Leaves) {
        let topology = self.topology;
        let threads = topology.threads_per_socket();
        let mut extended = false;
        leaves.change(0x8000_0001, 0, |e| {
            e.ecx &= !ECX_AMD_CMP_LEGACY;
            if threads > 1 {
                e.ecx |= ECX_AMD_CMP_LEGACY;
            }
            // Only the leaves of TOPOEXT tell threads from cores. A processor without TOPOEXT has
            // no leaf 0x8000001D either, so the guest then sees no caches.
            if topology.threads() > 1 {
                e.ecx |= ECX_AMD_TOPOEXT;
            }
            extended = e.ecx & ECX_AMD_TOPOEXT != 0;
        });
        leaves.change(0x8000_0008, 0, |e| {
            e.ecx = (e.ecx & !0xf0ff) | topology.socket_shift() << 12 | (threads - 1);
        });
        if !extended {
            leaves.change(LEAF_AMD_TOPOLOGY, 0, |e| set(e, [0; 4]));
            return;
        }
        leaves.change(0x8000_0000, 0, |e| e.eax = e.eax.max(LEAF_AMD_TOPOLOGY));
        // eax is the APIC ID; ebx the core, and the number of threads of each core, less one; ecx
        // the node: each socket is one node.
        let core = topology.core(self.vcpu) | (topology.threads() - 1) << 8;
        let node = topology.socket(self.vcpu);
        leaves.put(LEAF_AMD_TOPOLOGY, None, [self.apic_id(), core, node, 0]);
    }
}

#[cfg(test)]
mod tests;
