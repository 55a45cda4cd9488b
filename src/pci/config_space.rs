//! A configuration space as a register file: the value of each byte, and the effect of a write on
//! it.
//!
//! The register attributes are those of PCI Express 6.0, 7.4: RO (neither mask), RW
//! ([`ConfigSpace::set_writable`]) and RW1C ([`ConfigSpace::set_w1c`]). For a passed-through
//! function each byte is either emulated ([`ConfigSpace::set_emulated`]), so that this register
//! file answers an access, or passed to the device. Of a passed byte, some bits may be the host's
//! ([`ConfigSpace::set_passed`]): a guest's write does not change them. Bytes whose write has side
//! effects are marked too ([`ConfigSpace::set_side_effects`]): other writes only change values in
//! this file.

use crate::passed::Bits;
use crate::{CONFIG_SPACE_SIZE, byte_enable};

/// Size of the configuration space of conventional PCI.
pub const CONVENTIONAL_SIZE: usize = 256;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Behaviour {
    writable: u8,
    w1c: u8,
    emulated: bool,
    side_effects: bool,
    /// Of a passed byte: the bits that are the host's.
    host: u8,
    /// The host's bits that a guest's write carries as zero, not as the device has them.
    cleared: u8,
    /// The bits that read as zero.
    concealed: u8,
}

/// What the device gets of a guest's write to passed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceWrite {
    /// All bits.
    Whole,
    /// The guest's bits, beside the host's: [`ConfigSpace::for_device`].
    Masked,
    /// Nothing: no bit is the guest's.
    Dropped,
}

impl Behaviour {
    fn device_write(&self) -> DeviceWrite {
        match self.host {
            0 => DeviceWrite::Whole,
            0xff => DeviceWrite::Dropped,
            _ => DeviceWrite::Masked,
        }
    }
}

/// A part of an access whose bytes are all emulated, or all passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first register of the part, in bytes.
    pub offset: u16,
    /// How many bytes the part has, at least one.
    pub len: usize,
    /// Whether the bytes are emulated; otherwise the device answers.
    pub emulated: bool,
    /// Whether a write to one of the bytes has side effects.
    pub side_effects: bool,
    /// What the device gets of a write. Only the parts of [`ConfigSpace::split_write`] tell.
    pub write: DeviceWrite,
}

impl Part {
    /// Whether the part contains a byte of the register of `size` bytes at `register`.
    pub fn touches(&self, register: u16, size: usize) -> bool {
        let (start, at) = (usize::from(self.offset), usize::from(register));
        start < at + size && at < start + self.len
    }
}

/// The register file of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    values: Vec<u8>,
    behaviours: Vec<Behaviour>,
}

impl ConfigSpace {
    /// Makes a space whose bytes are all zero, read-only and passed. `size` is 256 or 4096; another
    /// size becomes one of the two.
    pub fn new(size: usize) -> Self {
        let size = if size <= CONVENTIONAL_SIZE {
            CONVENTIONAL_SIZE
        } else {
            CONFIG_SPACE_SIZE
        };
        Self {
            values: vec![0; size],
            behaviours: vec![Behaviour::default(); size],
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.values.len()
    }

    /// The values of all bytes, for walks of the capability chains.
    pub fn bytes(&self) -> &[u8] {
        &self.values
    }

    /// The values of all bytes, for changes without regard to the masks.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.values
    }

    /// Sets a byte, without regard to the masks. Has no effect beyond the end.
    pub fn set_u8(&mut self, offset: u16, value: u8) {
        byte_enable::put(&mut self.values, offset.into(), &[value]);
    }

    /// Sets 16 bits, without regard to the masks.
    pub fn set_u16(&mut self, offset: u16, value: u16) {
        byte_enable::put(&mut self.values, offset.into(), &value.to_le_bytes());
    }

    /// Sets 32 bits, without regard to the masks.
    pub fn set_u32(&mut self, offset: u16, value: u32) {
        byte_enable::put(&mut self.values, offset.into(), &value.to_le_bytes());
    }

    /// Reads a byte; all ones beyond the end.
    pub fn u8(&self, offset: u16) -> u8 {
        byte_enable::u8_at(&self.values, offset.into()).unwrap_or(!0)
    }

    /// Reads 16 bits; all ones if not wholly inside.
    pub fn u16(&self, offset: u16) -> u16 {
        byte_enable::u16_at(&self.values, offset.into()).unwrap_or(!0)
    }

    /// Reads 32 bits; all ones if not wholly inside.
    pub fn u32(&self, offset: u16) -> u32 {
        byte_enable::u32_at(&self.values, offset.into()).unwrap_or(!0)
    }

    /// Sets which bits of the bytes from `offset` on the guest may change.
    pub fn set_writable(&mut self, offset: u16, masks: &[u8]) {
        for (behaviour, mask) in self.behaviours_at(offset).zip(masks) {
            behaviour.writable = *mask;
        }
    }

    /// Sets which bits of the bytes from `offset` on a guest clears by writing 1 to them. Such a
    /// bit is not writable otherwise, even if it is set in the mask of
    /// [`ConfigSpace::set_writable`].
    pub fn set_w1c(&mut self, offset: u16, masks: &[u8]) {
        for (behaviour, mask) in self.behaviours_at(offset).zip(masks) {
            behaviour.w1c = *mask;
        }
    }

    /// Marks the `len` bytes from `offset` on as emulated.
    pub fn set_emulated(&mut self, offset: u16, len: usize) {
        for behaviour in self.behaviours_at(offset).take(len) {
            behaviour.emulated = true;
        }
    }

    /// Marks the `len` bytes from `offset` on: a write to them has side effects.
    pub fn set_side_effects(&mut self, offset: u16, len: usize) {
        for behaviour in self.behaviours_at(offset).take(len) {
            behaviour.side_effects = true;
        }
    }

    /// Sets the owners of the bits of a passed register of `len` bytes, at most four.
    pub fn set_passed(&mut self, offset: u16, len: usize, bits: Bits) {
        let masks = [bits.guest, bits.cleared, bits.concealed].map(u32::to_le_bytes);
        let [guest, cleared, concealed] = masks.map(|mask| mask.into_iter().take(len));
        let masks = guest.zip(cleared).zip(concealed);
        for (behaviour, ((guest, cleared), concealed)) in self.behaviours_at(offset).zip(masks) {
            behaviour.host = !guest;
            behaviour.cleared = cleared;
            behaviour.concealed = concealed;
        }
    }

    /// What the device gets of a guest's write to a passed byte.
    pub fn device_write(&self, offset: u16) -> DeviceWrite {
        let behaviour = self.behaviours.get(usize::from(offset));
        behaviour.map_or(DeviceWrite::Dropped, Behaviour::device_write)
    }

    /// The bytes that the device gets of a guest's write of `data` to passed bytes that have
    /// `current` in the device.
    pub fn for_device(&self, offset: u16, data: &[u8], current: &[u8]) -> Vec<u8> {
        let behaviours = self.behaviours.get(usize::from(offset)..);
        let bytes = behaviours.unwrap_or_default().iter().zip(data).zip(current);
        bytes
            .map(|((b, new), old)| (new & !b.host) | (old & b.host & !b.cleared))
            .collect()
    }

    /// Whether a write to these passed bytes carries bits of the host's as the device has them.
    pub fn keeps_host_bits(&self, offset: u16, len: usize) -> bool {
        let from = self.behaviours.get(usize::from(offset)..);
        let mut bytes = from.unwrap_or_default().iter().take(len);
        bytes.any(|b| b.host & !b.cleared != 0)
    }

    /// Clears the bits of `data`, which the device has answered, that read as zero.
    pub fn conceal(&self, offset: u16, data: &mut [u8]) {
        let behaviours = self.behaviours.get(usize::from(offset)..);
        for (byte, behaviour) in data.iter_mut().zip(behaviours.unwrap_or_default()) {
            *byte &= !behaviour.concealed;
        }
    }

    /// Whether a byte is emulated. Bytes beyond the end count as emulated, because they must not
    /// reach the device.
    pub fn is_emulated(&self, offset: u16) -> bool {
        self.emulated(offset.into())
    }

    /// Reads any bytes. Bytes beyond the end read as all ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let from = self.values.get(usize::from(offset)..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// Writes any bytes for the guest, under the masks. Bytes beyond the end are dropped.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let offset = usize::from(offset);
        let values = self.values.get_mut(offset..).unwrap_or_default();
        let behaviours = self.behaviours.get(offset..).unwrap_or_default();
        for ((value, behaviour), new) in values.iter_mut().zip(behaviours).zip(data) {
            let writable = behaviour.writable & !behaviour.w1c;
            *value = (*value & !writable) | (new & writable);
            *value &= !(new & behaviour.w1c);
        }
    }

    /// Splits an access of `len` bytes at `offset` into emulated and passed parts, in order.
    pub fn split(&self, offset: u16, len: usize) -> impl Iterator<Item = Part> + '_ {
        self.split_by(offset, len, |b| (b.emulated, DeviceWrite::Whole))
    }

    /// Splits a write as [`ConfigSpace::split`] does, and passed parts by what the device gets.
    pub fn split_write(&self, offset: u16, len: usize) -> impl Iterator<Item = Part> + '_ {
        self.split_by(offset, len, |b| match b.emulated {
            true => (true, DeviceWrite::Dropped),
            false => (false, b.device_write()),
        })
    }

    fn split_by(
        &self,
        offset: u16,
        len: usize,
        kind: fn(&Behaviour) -> (bool, DeviceWrite),
    ) -> impl Iterator<Item = Part> + '_ {
        let mut at = usize::from(offset);
        let end = at.saturating_add(len);
        let kind_at = move |at: usize| self.behaviours.get(at).map(kind);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (start, first) = (at, kind_at(at));
            let mut side_effects = false;
            // All bytes beyond the end are emulated, so the loop can stop at the size of the space.
            while at < end && at < self.size() && kind_at(at) == first {
                side_effects |= self.behaviours.get(at).is_some_and(|b| b.side_effects);
                at += 1;
            }
            let (emulated, write) = first.unwrap_or((true, DeviceWrite::Dropped));
            if emulated && at >= self.size() {
                at = end;
            }
            Some(Part {
                offset: u16::try_from(start).ok()?,
                len: at - start,
                emulated,
                side_effects,
                write,
            })
        })
    }

    fn emulated(&self, offset: usize) -> bool {
        self.behaviours.get(offset).is_none_or(|b| b.emulated)
    }

    fn behaviours_at(&mut self, offset: u16) -> impl Iterator<Item = &mut Behaviour> {
        let from = usize::from(offset);
        self.behaviours
            .get_mut(from..)
            .unwrap_or_default()
            .iter_mut()
    }
}

#[cfg(test)]
mod tests;
