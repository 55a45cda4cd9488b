//! What a root port lets through to the functions behind it (PCI Express 6.0, 7.5.1.3).
//!
//! The port, the bus and the functions behind the port share one [`Upstream`]: the port writes it,
//! the bus finds the function of a configuration access by it, and a function decodes a BAR only
//! where it says so. Its lock is held for a copy alone, so that no vCPU waits for a port that is
//! busy with another vCPU's write.

use std::sync::{PoisonError, RwLock};

use crate::addr::Range;
use crate::bar::Bar;

/// What a port lets through now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The bus behind the port; 0 while the guest has not numbered it.
    pub secondary: u8,
    /// The last bus behind the port.
    pub subordinate: u8,
    /// The memory window and the prefetchable window, while the port decodes memory.
    pub memory: [Option<Range>; 2],
    /// The window of ports, while the port decodes I/O.
    pub io: Option<Range>,
    /// Whether the functions behind the port may start requests.
    pub bus_master: bool,
    /// Whether the functions behind the port answer: the slot has power, and the link is neither
    /// disabled nor in reset.
    pub link_up: bool,
}

impl Forwarding {
    /// Whether a configuration access to `bus` goes through the port.
    pub fn has_bus(&self, bus: u8) -> bool {
        self.secondary != 0 && (self.secondary..=self.subordinate).contains(&bus)
    }

    /// Whether the port lets accesses to a BAR at this address through. A BAR that lies in a window
    /// with a part alone is not decoded at all.
    pub fn allows(&self, bar: &Bar, address: u64) -> bool {
        match bar.kind.is_io() {
            true => self.allows_io(address, bar.size),
            false => self.allows_memory(address, bar.size),
        }
    }

    /// Whether the memory at `[start, start + size)` lies in one of the two windows. A port does
    /// not ask whether the BAR behind it is prefetchable.
    fn allows_memory(&self, start: u64, size: u64) -> bool {
        let mut windows = self.memory.iter().flatten();
        self.link_up && windows.any(|window| window.contains(start, size))
    }

    /// Whether the ports `[start, start + size)` lie in the window of ports.
    fn allows_io(&self, start: u64, size: u64) -> bool {
        self.link_up && self.io.is_some_and(|window| window.contains(start, size))
    }
}

/// What a port lets through, shared with the functions behind it.
#[derive(Debug, Default)]
pub struct Upstream {
    now: RwLock<Forwarding>,
}

impl Upstream {
    /// A port that lets nothing through yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the port lets through now.
    pub fn now(&self) -> Forwarding {
        *self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port lets this through from now on. The functions behind it are told separately.
    pub fn set(&self, forwarding: Forwarding) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = forwarding;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::BarKind;

    const MIB: u64 = 1 << 20;

    fn port() -> Forwarding {
        let range = |start, size| Some(Range { start, size });
        Forwarding {
            secondary: 2,
            subordinate: 4,
            memory: [range(0xc000_0000, MIB), range(1 << 38, 1 << 30)],
            io: range(0x2000, 0x1000),
            bus_master: true,
            link_up: true,
        }
    }

    fn memory(prefetchable: bool) -> Bar {
        let kind = BarKind::Memory64 { prefetchable };
        Bar { kind, size: MIB }
    }

    #[test]
    fn a_bar_is_inside_of_one_window() {
        let port = port();
        for prefetchable in [false, true] {
            let bar = memory(prefetchable);
            assert!(port.allows(&bar, 0xc000_0000) && port.allows(&bar, 1 << 38));
            assert!(!port.allows(&bar, 0xc008_0000) && !port.allows(&bar, 0xbff0_0000));
            assert!(!port.allows(&bar, u64::MAX - MIB + 1));
        }
        let io = Bar {
            kind: BarKind::Io,
            size: 0x20,
        };
        assert!(port.allows(&io, 0x2fe0) && !port.allows(&io, 0x2ff0));
        // Ports are no memory.
        assert!(!port.allows(&io, 0xc000_0000) && !port.allows(&memory(true), 0x2000));
        let down = Forwarding {
            link_up: false,
            ..port
        };
        assert!(!down.allows(&io, 0x2000) && !down.allows(&memory(true), 1 << 38));
        let nothing = Forwarding::default();
        assert!(!nothing.allows(&io, 0) && !nothing.allows(&memory(true), 0));
    }

    #[test]
    fn all_see_what_the_port_has_set() {
        let upstream = Upstream::new();
        assert!(!upstream.now().has_bus(0));
        upstream.set(port());
        assert_eq!(upstream.now(), port());
        assert!((2..=4).all(|bus| port().has_bus(bus)));
        assert!(!port().has_bus(1) && !port().has_bus(5));
    }
}
