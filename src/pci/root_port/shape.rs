//! What is fixed about a root port.

/// What is fixed about a root port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortShape {
    /// The number of the port, and of its slot. Each port of a guest has another.
    pub number: u8,
    /// The interrupt pin, 0 for INTA.
    pub pin: u8,
    /// Whether the port has a window of I/O ports.
    pub io: bool,
    /// The link to the device.
    pub link: LinkShape,
}

/// The link below a port, in the units of the link registers (PCI Express 6.0, 7.5.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkShape {
    /// The highest speed, from 1 for 2.5 GT/s on.
    pub max_speed: u8,
    /// The number of physical connections at most.
    pub max_width: u8,
    /// The current speed.
    pub speed: u8,
    /// The current width.
    pub width: u8,
    /// The largest payload: 128 bytes, shifted left by this.
    pub payload: u8,
}

impl Default for LinkShape {
    /// 2.5 GT/s and a width of one.
    fn default() -> Self {
        Self {
            max_speed: 1,
            max_width: 1,
            speed: 1,
            width: 1,
            payload: 0,
        }
    }
}
