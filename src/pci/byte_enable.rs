//! Byte enables: which bytes of a register an access covers.
//!
//! PCI lets software access a register with any byte enables (PCI 3.0, 3.2.2.3.4), so the code of a
//! register must not expect one exact offset and size. The registers of this crate use the
//! functions of this file instead: the access is `data` at `offset`, and the register lies at `at`.

/// Returns `register` after a write of `data` at `offset`, of which only the `writable` bits
/// change.
pub fn merge(register: u32, at: u64, writable: u32, offset: u64, data: &[u8]) -> u32 {
    let mut bytes = register.to_le_bytes();
    let masked = bytes.iter_mut().zip(writable.to_le_bytes());
    for (number, (byte, mask)) in masked.enumerate() {
        if let Some(new) = index(at, number, offset).and_then(|i| data.get(i)) {
            *byte = (*byte & !mask) | (new & mask);
        }
    }
    u32::from_le_bytes(bytes)
}

/// Copies the bytes of a register, little endian, that a read of `data` at `offset` covers; the
/// rest of `data` stays as it is.
pub fn extract<const N: usize>(register: [u8; N], at: u64, offset: u64, data: &mut [u8]) {
    for (number, byte) in register.into_iter().enumerate() {
        if let Some(to) = index(at, number, offset).and_then(|i| data.get_mut(i)) {
            *to = byte;
        }
    }
}

/// Whether an access of `len` bytes at `offset` touches the `size` bytes at `at`.
pub fn touches(offset: u64, len: usize, at: u64, size: u64) -> bool {
    let len = len as u64;
    len > 0 && size > 0 && offset < at.saturating_add(size) && at < offset.saturating_add(len)
}

/// The part of an access at `offset` that lies in the `size` bytes at `start`: its offset from
/// `start`, and its bytes.
pub fn part_of(start: u16, size: u16, offset: u16, data: &[u8]) -> Option<(u16, &[u8])> {
    if !touches(offset.into(), data.len(), start.into(), size.into()) {
        return None;
    }
    let skip = usize::from(start.saturating_sub(offset));
    let first = offset.saturating_sub(start);
    let left = usize::from(size - first);
    let part = data.get(skip..)?;
    Some((first, part.get(..left).unwrap_or(part)))
}

/// Lets `fill` write the part of a read that lies in the `size` bytes at `start`. `fill` takes what
/// [`part_of`] returns.
pub fn overlay(
    start: u16,
    size: u16,
    offset: u16,
    data: &mut [u8],
    fill: impl FnOnce(u16, &mut [u8]),
) {
    let Some((first, part)) = part_of(start, size, offset, data) else {
        return;
    };
    let (skip, len) = (usize::from(start.saturating_sub(offset)), part.len());
    if let Some(part) = data.get_mut(skip..skip + len) {
        fill(first, part);
    }
}

/// The byte at `offset`.
pub fn u8_at(from: &[u8], offset: usize) -> Option<u8> {
    from.get(offset).copied()
}

/// The 16 bits at `offset`, little endian.
pub fn u16_at(from: &[u8], offset: usize) -> Option<u16> {
    let bytes = from.get(offset..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

/// The 32 bits at `offset`, little endian.
pub fn u32_at(from: &[u8], offset: usize) -> Option<u32> {
    let bytes = from.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// Puts `bytes` at `offset`. Bytes beyond the end are dropped.
pub fn put(to: &mut [u8], offset: usize, bytes: &[u8]) {
    let rest = to.get_mut(offset..).unwrap_or_default();
    for (to, from) in rest.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// The index, in the access, of byte `number` of the register.
fn index(at: u64, number: usize, offset: u64) -> Option<usize> {
    let position = at.checked_add(number as u64)?;
    usize::try_from(position.checked_sub(offset)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_byte_of_a_register() {
        assert_eq!(merge(0x1122_3344, 4, !0, 6, &[0xaa]), 0x11aa_3344);
        assert_eq!(
            merge(0x1122_3344, 4, 0x00ff_0000, 0, &[0xaa; 8]),
            0x11aa_3344
        );
        assert_eq!(merge(0x1122_3344, 4, !0, 8, &[0xaa]), 0x1122_3344);
        let mut data = [0; 4];
        extract(0x1122_3344u32.to_le_bytes(), 4, 2, &mut data);
        assert_eq!(data, [0, 0, 0x44, 0x33]);
    }

    #[test]
    fn parts_of_an_access() {
        let data = [0, 1, 2, 3];
        assert_eq!(part_of(0x50, 12, 0x50, &data), Some((0, &data[..])));
        assert_eq!(part_of(0x50, 12, 0x4e, &data), Some((0, &data[2..])));
        assert_eq!(part_of(0x50, 12, 0x5a, &data), Some((10, &data[..2])));
        assert_eq!(part_of(0x50, 12, 0x5c, &data), None);
        assert_eq!(part_of(0x50, 12, 0x4c, &data), None);
        assert_eq!(part_of(0x50, 2, 0x4f, &data), Some((0, &data[1..3])));
        let mut data = [9; 4];
        overlay(0x50, 2, 0x4f, &mut data, |first, part| {
            part.fill(first as u8)
        });
        assert_eq!(data, [9, 0, 0, 9]);
    }

    #[test]
    fn ends_of_the_number_line() {
        assert_eq!(merge(0, u64::MAX - 1, !0, u64::MAX - 1, &[1, 2, 3]), 0x201);
        assert_eq!(merge(0, 0, !0, u64::MAX, &[1, 2]), 0);
        assert!(touches(u64::MAX - 1, 8, u64::MAX - 3, 3));
        assert!(!touches(0, 0, 0, 4));
        put(&mut [0; 2], usize::MAX, &[1]);
        assert_eq!(u32_at(&[0; 4], 1), None);
        assert_eq!(u16_at(&[0; 4], usize::MAX), None);
    }

    proptest! {
        #[test]
        fn as_in_memory(
            register: u32,
            writable: u32,
            at in 0u64..12,
            offset in 0u64..16,
            data in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut memory = [0u8; 32];
            let at_index = at as usize;
            memory[at_index..at_index + 4].copy_from_slice(&register.to_le_bytes());
            memory[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
            let new = u32_at(&memory, at_index).unwrap();
            let merged = merge(register, at, writable, offset, &data);
            prop_assert_eq!(merged, (register & !writable) | (new & writable));
            let touched = (0..data.len() as u64).any(|i| (at..at + 4).contains(&(offset + i)));
            prop_assert_eq!(touches(offset, data.len(), at, 4), touched);
        }
    }
}
