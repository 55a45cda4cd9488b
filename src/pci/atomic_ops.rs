//! AtomicOps: read-modify-write requests (PCI Express 6.0, 6.15). A function starts them where the
//! root port above it completes them, which Device Capabilities 2 of the port tells (7.5.3.15).

use std::ops::BitAnd;

/// The AtomicOps that a root port completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtomicOps {
    /// Fetch-and-add, swap and compare-and-swap of 32 bits.
    pub bits_32: bool,
    /// The same of 64 bits.
    pub bits_64: bool,
    /// Compare-and-swap of 128 bits.
    pub cas_128: bool,
}

impl AtomicOps {
    /// No AtomicOps.
    pub const NONE: Self = Self {
        bits_32: false,
        bits_64: false,
        cas_128: false,
    };
    /// All AtomicOps: the neutral element of `&`.
    pub const ALL: Self = Self {
        bits_32: true,
        bits_64: true,
        cas_128: true,
    };

    /// Whether there is any.
    pub fn any(self) -> bool {
        self != Self::NONE
    }

    /// The bits of Device Capabilities 2. AtomicOp Routing Supported (bit 6) is not among them: the
    /// port routes none from one function to another.
    pub fn device_capabilities_2(self) -> u32 {
        u32::from(self.bits_32) << 7 | u32::from(self.bits_64) << 8 | u32::from(self.cas_128) << 9
    }
}

impl BitAnd for AtomicOps {
    type Output = Self;

    /// What both have.
    fn bitand(self, other: Self) -> Self {
        Self {
            bits_32: self.bits_32 & other.bits_32,
            bits_64: self.bits_64 & other.bits_64,
            cas_128: self.cas_128 & other.cas_128,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_completes_what_all_functions_have() {
        let gpu = AtomicOps::ALL;
        let sound = AtomicOps {
            bits_64: true,
            ..AtomicOps::NONE
        };
        assert_eq!(gpu.device_capabilities_2(), 0x380);
        assert_eq!((gpu & sound).device_capabilities_2(), 0x100);
        assert_eq!(gpu & AtomicOps::NONE, AtomicOps::NONE);
        assert!(sound.any() && !AtomicOps::NONE.any());
        let all = [gpu, sound, gpu].into_iter();
        assert_eq!(all.fold(AtomicOps::ALL, BitAnd::bitand), sound);
    }
}
