//! Who owns the bits of a register that the device answers: the guest, or the host.

/// What the device gets of a guest's write to passed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceWrite {
    /// All bits.
    Whole,
    /// The guest's bits, beside the host's.
    Masked,
    /// Nothing: no bit is the guest's.
    Dropped,
}

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

    /// The owners by bytes.
    pub(crate) fn owners(self) -> [Owners; 4] {
        let [guest, cleared, concealed] =
            [self.guest, self.cleared, self.concealed].map(u32::to_le_bytes);
        let mut owners = [Owners::default(); 4];
        let masks = guest.into_iter().zip(cleared).zip(concealed);
        for (owners, ((guest, cleared), concealed)) in owners.iter_mut().zip(masks) {
            *owners = Owners {
                host: !guest,
                cleared,
                concealed,
            };
        }
        owners
    }
}

/// The owners of the bits of one byte. By default all bits are the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    host: u8,
    cleared: u8,
    concealed: u8,
}

impl Owners {
    pub(crate) fn device_write(self) -> DeviceWrite {
        match self.host {
            0 => DeviceWrite::Whole,
            0xff => DeviceWrite::Dropped,
            _ => DeviceWrite::Masked,
        }
    }

    /// The byte that the device gets, where the guest writes `new` and the device has `old`.
    pub(crate) fn merge(self, new: u8, old: u8) -> u8 {
        (new & !self.host) | (old & self.host & !self.cleared)
    }

    /// What the guest reads of the device's value.
    pub(crate) fn shown(self, value: u8) -> u8 {
        value & !self.concealed
    }
}
