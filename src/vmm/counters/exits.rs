//! Exits to this process, by vCPU, reason and register.
//!
//! Each vCPU has counters of its own, which only its thread writes. So counting is a plain load and
//! store without a locked instruction, and no cache line is shared by two writers.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::counters::registers::{Access, RegisterTable, Space};

/// The reason why KVM_RUN returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An `in`, or a string of them.
    PioIn,
    /// An `out`, or a string of them.
    PioOut,
    /// A load from an address without memory.
    MmioRead,
    /// A store to an address without memory.
    MmioWrite,
    /// HLT, if KVM does not handle it in the kernel.
    Halt,
    /// A signal, mostly the signal that stops vCPUs.
    Interrupted,
    /// KVM could not get a page of the guest.
    MemoryFault,
    /// The guest has locked the memory bus, by an atomic access across cache lines for one.
    BusLock,
    /// The guest has kept the processor from interrupts for too long.
    Notify,
    /// A triple fault.
    Shutdown,
    /// Any other reason.
    Other,
}

impl Reason {
    /// All reasons, in the order of the counters.
    pub const ALL: [Self; 11] = [
        Self::PioIn,
        Self::PioOut,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Halt,
        Self::Interrupted,
        Self::MemoryFault,
        Self::BusLock,
        Self::Notify,
        Self::Shutdown,
        Self::Other,
    ];

    /// The name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::PioIn => "pio_in",
            Self::PioOut => "pio_out",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::Halt => "halt",
            Self::Interrupted => "interrupted",
            Self::MemoryFault => "memory_fault",
            Self::BusLock => "bus_lock",
            Self::Notify => "notify",
            Self::Shutdown => "shutdown",
            Self::Other => "other",
        }
    }

    fn access(self, address: u64) -> Option<Access> {
        let (space, write) = match self {
            Self::PioIn => (Space::Port, false),
            Self::PioOut => (Space::Port, true),
            Self::MmioRead => (Space::Memory, false),
            Self::MmioWrite => (Space::Memory, true),
            _ => return None,
        };
        Some(Access {
            space,
            write,
            address,
        })
    }
}

/// The exits of one vCPU, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct VcpuExits {
    reasons: [AtomicU64; Reason::ALL.len()],
    /// Counts by register; `None` without `--stats`.
    details: Option<Details>,
}

#[derive(Debug)]
struct Details {
    first: OnceLock<Instant>,
    registers: RegisterTable,
}

impl VcpuExits {
    /// Makes empty counters. With `detailed`, exits are counted by register as well.
    pub fn new(detailed: bool) -> Self {
        Self {
            reasons: Default::default(),
            details: detailed.then(|| Details {
                first: OnceLock::new(),
                registers: RegisterTable::default(),
            }),
        }
    }

    /// Counts one exit. Only the vCPU's own thread may call this. `address` is the port or the
    /// guest-physical address; it is ignored for reasons that have none.
    pub fn count(&self, reason: Reason, address: u64) {
        let counter = &self.reasons[reason as usize];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if let Some(details) = &self.details {
            details.first.get_or_init(Instant::now);
            if let Some(access) = reason.access(address) {
                details.registers.count(access);
            }
        }
    }

    /// The number of exits for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize].load(Ordering::Relaxed)
    }

    /// The time of the first exit, if exits are counted by register.
    pub fn first(&self) -> Option<Instant> {
        self.details.as_ref()?.first.get().copied()
    }

    /// The counts by register, if exits are counted so.
    pub fn registers(&self) -> Option<&RegisterTable> {
        self.details.as_ref().map(|details| &details.registers)
    }
}

/// The exits of all vCPUs. Displayed as the line that `-v` and SIGUSR1 print.
#[derive(Debug, Default)]
pub struct Exits(Box<[VcpuExits]>);

impl Exits {
    /// Makes counters for `vcpus` vCPUs. With `detailed`, exits are counted by register as well.
    pub fn new(vcpus: u32, detailed: bool) -> Self {
        Self((0..vcpus).map(|_| VcpuExits::new(detailed)).collect())
    }

    /// The exits of each vCPU, in the order of their numbers.
    pub fn vcpus(&self) -> &[VcpuExits] {
        &self.0
    }

    /// The exits of all vCPUs for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0.iter().map(|vcpu| vcpu.of(reason)).sum()
    }

    /// The exits of all vCPUs for port I/O.
    pub fn pio(&self) -> u64 {
        self.of(Reason::PioIn) + self.of(Reason::PioOut)
    }

    /// The exits of all vCPUs for memory-mapped I/O.
    pub fn mmio(&self) -> u64 {
        self.of(Reason::MmioRead) + self.of(Reason::MmioWrite)
    }

    /// The exits of all vCPUs for any reason.
    pub fn total(&self) -> u64 {
        Reason::ALL.into_iter().map(|reason| self.of(reason)).sum()
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pio, mmio, total) = (self.pio(), self.mmio(), self.total());
        // A vCPU may count another exit between the sums.
        let other = total.saturating_sub(pio + mmio);
        write!(
            f,
            "exits pio={pio} mmio={mmio} other={other} total={}",
            pio + mmio + other
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_adds_up() {
        let exits = Exits::new(2, false);
        exits.vcpus()[0].count(Reason::PioIn, 0x3f8);
        exits.vcpus()[1].count(Reason::MmioRead, 0xc000_0000);
        exits.vcpus()[1].count(Reason::MmioWrite, 0xc000_0000);
        exits.vcpus()[0].count(Reason::Interrupted, 0);
        assert_eq!(exits.to_string(), "exits pio=1 mmio=2 other=1 total=4");
        assert!(exits.vcpus()[0].registers().is_none() && exits.vcpus()[0].first().is_none());
    }

    #[test]
    fn reasons_are_in_the_order_of_their_counters() {
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(i, reason as usize);
        }
    }

    #[test]
    fn registers_are_counted_when_asked_for() {
        let exits = VcpuExits::new(true);
        exits.count(Reason::Interrupted, 0);
        exits.count(Reason::PioOut, 0x3f8);
        exits.count(Reason::PioOut, 0x3f8);
        let registers = exits.registers().unwrap();
        let access = Access {
            space: Space::Port,
            write: true,
            address: 0x3f8,
        };
        assert_eq!(registers.list(), [(access, 2)]);
        assert!(exits.first().is_some());
    }
}
