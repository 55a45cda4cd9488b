//! What firmware sets in a root port before it starts an operating system: bus numbers and windows
//! (PCI Firmware 3.3, 3.5; PCI Express 6.0, 7.5.1.3).

use std::fmt;

use crate::addr::Range;

/// The bus numbers and windows of a root port at power-on. A window is aligned, in start and size,
/// to 1 MiB for memory and 4 KiB for ports; `None` is a closed window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSetup {
    /// The bus behind the port.
    pub secondary: u8,
    /// The last bus behind the port.
    pub subordinate: u8,
    /// The memory window, below 4 GiB: for BARs that are not prefetchable.
    pub mem32: Option<Range>,
    /// The prefetchable window, anywhere.
    pub pref64: Option<Range>,
    /// The window of ports.
    pub io: Option<Range>,
}

/// `bus 1, mem32 0xc0000000-0xc00fffff, ...`: the bus, and first and last address of each window.
impl fmt::Display for PortSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bus {}", self.secondary)?;
        let windows = [
            ("mem32", self.mem32),
            ("mem64", self.pref64),
            ("io", self.io),
        ];
        for (name, window) in windows {
            if let Some(window) = window.filter(|window| window.size > 0) {
                let last = window.end() - 1;
                write!(f, ", {name} {:#x}-{last:#x}", window.start)?;
            }
        }
        Ok(())
    }
}
