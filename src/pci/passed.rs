//! Who owns the bits of a register that the device answers: the guest, or the host.

/// The bits of a passed register, by their owner. A bit that is in none of the masks is the host's,
/// and a guest's write carries it as the device has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The guest's: writes reach the device.
    pub guest: u32,
    /// The host's, written as zero: bits that a write of one clears, and bits that start something.
    pub cleared: u32,
    /// Read as zero.
    pub concealed: u32,
}

impl Bits {
    /// All bits are the guest's.
    pub const GUEST: Self = Self {
        guest: !0,
        cleared: 0,
        concealed: 0,
    };
    /// All bits are the host's, and can be read.
    pub const READ_ONLY: Self = Self {
        guest: 0,
        cleared: 0,
        concealed: 0,
    };
}
