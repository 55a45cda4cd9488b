//! Registers of a function's configuration space by name: the type 0 header (PCI Express 6.0,
//! 7.5.1) and the power management capability (7.5.2). Offsets and lengths are bytes.

/// Vendor and device IDs, 2 bytes each.
pub const VENDOR: u16 = 0x00;
/// COMMAND, 2 bytes; [`command`] has its bits.
pub const COMMAND: u16 = 0x04;
/// STATUS, 2 bytes.
pub const STATUS: u16 = 0x06;
/// Revision (1 byte) and class code (3 bytes).
pub const REVISION: u16 = 0x08;
/// Cache line size, 1 byte.
pub const CACHE_LINE: u16 = 0x0c;
/// Latency timer, 1 byte.
pub const LATENCY: u16 = 0x0d;
/// Header type, 1 byte.
pub const HEADER_TYPE: u16 = 0x0e;
/// Built-in self test, 1 byte.
pub const BIST: u16 = 0x0f;
/// The first of six base address registers of 4 bytes.
pub const BAR: u16 = 0x10;
/// CardBus CIS pointer, 4 bytes.
pub const CARDBUS: u16 = 0x28;
/// Subsystem vendor ID and subsystem ID, 2 bytes each.
pub const SUBSYSTEM: u16 = 0x2c;
/// Expansion ROM base address register, 4 bytes.
pub const ROM: u16 = 0x30;
/// Offset of the first capability, 1 byte.
pub const CAPABILITIES: u16 = 0x34;
/// Reserved, 4 bytes. The three bytes before, after [`CAPABILITIES`], are reserved too.
pub const RESERVED: u16 = 0x38;
/// Interrupt line, 1 byte.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 1 byte: 0 for none, 1 for INTA.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// Minimum grant, 1 byte.
pub const MIN_GRANT: u16 = 0x3e;
/// Maximum latency, 1 byte.
pub const MAX_LATENCY: u16 = 0x3f;

/// Bits of COMMAND (7.5.1.1.3).
pub mod command {
    /// I/O Space Enable: port BARs decode.
    pub const IO: u16 = 1 << 0;
    /// Memory Space Enable: memory BARs decode.
    pub const MEMORY: u16 = 1 << 1;
    /// Bus Master Enable: the function may start requests.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Memory Write and Invalidate Enable.
    pub const WRITE_INVALIDATE: u16 = 1 << 4;
    /// Parity Error Response.
    pub const PARITY: u16 = 1 << 6;
    /// SERR# Enable: errors are reported to the root complex.
    pub const SERR: u16 = 1 << 8;
    /// Interrupt Disable: the function must not assert its pin.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of STATUS (7.5.1.1.4).
pub mod status {
    /// Interrupt Status: the pin is asserted.
    pub const INTERRUPT: u16 = 1 << 3;
    /// Capabilities List: [`CAPABILITIES`](super::CAPABILITIES) is valid.
    pub const CAPABILITIES_LIST: u16 = 1 << 4;
}

/// Bits of the header type (7.5.1.1.9).
pub mod header_type {
    /// The device has more than one function.
    pub const MULTI_FUNCTION: u8 = 1 << 7;
    /// The layout of a bridge's header ([`bridge`](super::bridge)).
    pub const BRIDGE: u8 = 1;
}

/// The registers that a type 1 header has where a type 0 header has others (7.5.1.3; PCI-to-PCI
/// Bridge Architecture 1.2, 3.2.5).
pub mod bridge {
    /// Primary bus number, 1 byte; software writes it, and nothing depends on it.
    pub const PRIMARY: u16 = 0x18;
    /// Secondary bus number, 1 byte.
    pub const SECONDARY: u16 = 0x19;
    /// Subordinate bus number, 1 byte.
    pub const SUBORDINATE: u16 = 0x1a;
    /// Base of the window of ports, 1 byte: bits 7:4 are bits 15:12 of the first port.
    pub const IO_BASE: u16 = 0x1c;
    /// Limit of the window of ports, 1 byte.
    pub const IO_LIMIT: u16 = 0x1d;
    /// Base of the memory window, 2 bytes: bits 15:4 are bits 31:20 of the first address.
    pub const MEMORY_BASE: u16 = 0x20;
    /// Limit of the memory window, 2 bytes.
    pub const MEMORY_LIMIT: u16 = 0x22;
    /// Base of the prefetchable window, 2 bytes.
    pub const PREFETCHABLE_BASE: u16 = 0x24;
    /// Limit of the prefetchable window, 2 bytes.
    pub const PREFETCHABLE_LIMIT: u16 = 0x26;
    /// Upper half of the prefetchable base, 4 bytes.
    pub const PREFETCHABLE_BASE_UPPER: u16 = 0x28;
    /// Upper half of the prefetchable limit, 4 bytes.
    pub const PREFETCHABLE_LIMIT_UPPER: u16 = 0x2c;
    /// Bridge control, 2 bytes; [`control`] has its bits.
    pub const CONTROL: u16 = 0x3e;

    /// Bits of bridge control (7.5.1.3.13).
    pub mod control {
        /// Parity Error Response Enable.
        pub const PARITY: u16 = 1 << 0;
        /// SERR# Enable.
        pub const SERR: u16 = 1 << 1;
        /// Secondary Bus Reset: what is behind the port is in reset while the bit is set.
        pub const RESET: u16 = 1 << 6;
    }
}

/// The power management capability (7.5.2).
pub mod power {
    /// PMCSR (control and status), 2 bytes; the offset is from the start of the capability.
    pub const PMCSR: u16 = 4;
    /// PowerState in PMCSR's low byte: 0 is D0, 3 is D3hot.
    pub const STATE: u8 = 0x3;
}
