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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes() {
        let mut space = ConfigSpace::new(256);
        space.set_u32(4, 0xf900_0000);
        space.set_writable(4, &[0x07, 0x05, 0, 0x01]);
        space.set_w1c(7, &[0xf9]);
        space.write(4, &[0xff; 4]);
        assert_eq!(space.u32(4), 0x0000_0507);
        space.set_u8(7, 0xf9);
        space.write(6, &[0, 0x80]);
        assert_eq!(space.u16(6), 0x7900);
    }

    #[test]
    fn beyond_the_end() {
        let mut space = ConfigSpace::new(256);
        space.set_writable(254, &[0xff; 8]);
        space.write(254, &[1, 2, 3, 4]);
        let mut data = [0; 4];
        space.read(254, &mut data);
        assert_eq!(data, [1, 2, 0xff, 0xff]);
        space.read(u16::MAX, &mut data);
        assert_eq!(data, [0xff; 4]);
        space.write(u16::MAX, &[1; 4]);
        space.set_u32(u16::MAX, 1);
        space.set_u32(254, 0x1122_3344);
        assert_eq!(space.u16(254), 0x3344);
        assert_eq!(space.u32(254), !0);
        assert_eq!(ConfigSpace::new(0).size(), 256);
        assert_eq!(ConfigSpace::new(usize::MAX).size(), 4096);
    }

    #[test]
    fn parts_alternate() {
        let mut space = ConfigSpace::new(256);
        space.set_emulated(0x10, 2);
        space.set_emulated(0x13, 1);
        let parts = |offset, len| {
            let parts = space.split(offset, len);
            let parts = parts.map(|part| (part.offset, part.len, part.emulated));
            parts.collect::<Vec<_>>()
        };
        assert_eq!(
            parts(0x0e, 6),
            [
                (0x0e, 2, false),
                (0x10, 2, true),
                (0x12, 1, false),
                (0x13, 1, true)
            ]
        );
        assert_eq!(parts(0xfe, 4), [(0xfe, 2, false), (0x100, 2, true)]);
        assert_eq!(parts(0xffff, usize::MAX).len(), 1);
        assert_eq!(parts(0x10, 0), []);
    }

    #[test]
    fn side_effects_are_told_of_a_whole_part() {
        let mut space = ConfigSpace::new(256);
        space.set_side_effects(0x04, 2);
        space.set_emulated(0x10, 4);
        space.set_side_effects(0x13, 1);
        let effects = |offset, len| {
            let parts = space.split(offset, len).map(|part| part.side_effects);
            parts.collect::<Vec<_>>()
        };
        assert_eq!(effects(0x04, 4), [true]);
        assert_eq!(effects(0x06, 2), [false]);
        assert_eq!(effects(0x0e, 6), [false, true]);
        assert_eq!(effects(0x10, 2), [false]);
        let part = space.split(0x04, 4).next().unwrap();
        assert!(part.touches(0x05, 1) && part.touches(0x07, 4) && part.touches(0x00, 5));
        assert!(!part.touches(0x08, 1) && !part.touches(0x00, 4));
        let end = space.split(u16::MAX, 4).next().unwrap();
        assert!(end.touches(u16::MAX, 1) && !end.touches(0, 4));
    }

    #[test]
    fn the_device_gets_the_guests_bits() {
        let mut space = ConfigSpace::new(256);
        let bits = Bits {
            guest: 0x00f0_ff0f,
            cleared: 0x0f00_0080,
            concealed: 0x8000_0010,
        };
        space.set_passed(0x40, 4, bits);
        space.set_passed(0x44, 2, Bits::READ_ONLY);
        space.set_emulated(0x46, 2);
        let parts = space.split_write(0x3f, 10);
        let parts: Vec<_> = parts.map(|p| (p.offset, p.len, p.write)).collect();
        use DeviceWrite::{Dropped, Masked, Whole};
        assert_eq!(
            parts,
            [
                (0x3f, 1, Whole),
                (0x40, 1, Masked),
                (0x41, 1, Whole),
                (0x42, 1, Masked),
                (0x43, 3, Dropped),
                (0x46, 2, Dropped),
                (0x48, 1, Whole),
            ]
        );
        // A read does not tell masks apart.
        assert_eq!(space.split(0x3f, 10).count(), 3);
        let new = space.for_device(0x40, &[0xff; 4], &[0x90, 0, 0x05, 0xff]);
        assert_eq!(new, [0x1f, 0xff, 0xf5, 0xf0]);
        let mut data = [0xff; 4];
        space.conceal(0x40, &mut data);
        assert_eq!(data, [0xef, 0xff, 0xff, 0x7f]);
        assert_eq!(space.for_device(0xff, &[1, 2], &[0; 2]), [1]);
        space.conceal(u16::MAX, &mut data);
        assert_eq!(space.device_write(0x44), Dropped);
        assert_eq!(space.device_write(0x100), Dropped);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Writable(u16, Vec<u8>),
        W1c(u16, Vec<u8>),
        Emulated(u16, usize),
        Set(u16, u32),
        Write(u16, Vec<u8>),
    }

    fn offset() -> impl Strategy<Value = u16> {
        prop_oneof![0u16..16, 240u16..270, any::<u16>()]
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..9);
        prop_oneof![
            (offset(), bytes()).prop_map(|(o, b)| Step::Writable(o, b)),
            (offset(), bytes()).prop_map(|(o, b)| Step::W1c(o, b)),
            (offset(), 0usize..9).prop_map(|(o, n)| Step::Emulated(o, n)),
            (offset(), any::<u32>()).prop_map(|(o, v)| Step::Set(o, v)),
            (offset(), bytes()).prop_map(|(o, b)| Step::Write(o, b)),
        ]
    }

    proptest! {
        #[test]
        fn as_bit_by_bit(
            steps in prop::collection::vec(step(), 0..40),
            probe in offset(),
            len in 0usize..9,
        ) {
            let mut space = ConfigSpace::new(256);
            let bits = 256 * 8;
            let (mut value, mut writable) = (vec![false; bits], vec![false; bits]);
            let mut w1c = vec![false; bits];
            let mut emulated = vec![false; 256];
            let each = |offset: u16, bytes: &[u8], f: &mut dyn FnMut(usize, bool)| {
                for (i, byte) in bytes.iter().enumerate() {
                    for bit in 0..8 {
                        let at = (usize::from(offset) + i) * 8 + bit;
                        if at < bits {
                            f(at, byte >> bit & 1 == 1);
                        }
                    }
                }
            };
            for step in &steps {
                match step {
                    Step::Writable(o, b) => {
                        space.set_writable(*o, b);
                        each(*o, b, &mut |i, v| writable[i] = v);
                    }
                    Step::W1c(o, b) => {
                        space.set_w1c(*o, b);
                        each(*o, b, &mut |i, v| w1c[i] = v);
                    }
                    Step::Set(o, v) => {
                        space.set_u32(*o, *v);
                        each(*o, &v.to_le_bytes(), &mut |i, v| value[i] = v);
                    }
                    Step::Emulated(o, n) => {
                        space.set_emulated(*o, *n);
                        let bytes = (0..*n).map(|i| usize::from(*o) + i);
                        bytes.filter(|i| *i < 256).for_each(|i| emulated[i] = true);
                    }
                    Step::Write(o, b) => {
                        space.write(*o, b);
                        each(*o, b, &mut |i, v| {
                            if w1c[i] { value[i] &= !v } else if writable[i] { value[i] = v }
                        });
                    }
                }
            }
            let mut data = vec![0; len];
            space.read(probe, &mut data);
            for (i, byte) in data.iter().enumerate() {
                for bit in 0..8 {
                    let at = (usize::from(probe) + i) * 8 + bit;
                    prop_assert_eq!(byte >> bit & 1 == 1, value.get(at).copied().unwrap_or(true));
                }
            }
            let mut at = usize::from(probe);
            let mut last = None;
            for part in space.split(probe, len) {
                prop_assert_eq!(usize::from(part.offset), at);
                prop_assert!(part.len > 0 && last != Some(part.emulated));
                for i in at..at + part.len {
                    prop_assert_eq!(emulated.get(i).copied().unwrap_or(true), part.emulated);
                }
                at += part.len;
                last = Some(part.emulated);
            }
            prop_assert_eq!(at, usize::from(probe) + len);
        }
    }
}
