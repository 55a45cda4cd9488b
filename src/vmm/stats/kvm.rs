//! KVM's own counters, read from the file of KVM_GET_STATS_FD (Documentation/virt/kvm/api.rst,
//! 4.133; Linux 5.14).
//!
//! The header has the offset of the descriptors. Each descriptor has the name of a counter and the
//! offset of its values. The file can be read whether or not the VM or vCPU runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kvm_bindings::kvm_stats_desc;
use serde::Serialize;

/// A counter's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A plain counter.
    Number(u64),
    /// The buckets of a histogram.
    Buckets(Vec<u64>),
}

impl Value {
    /// The number of a plain counter.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Buckets(_) => None,
        }
    }
}

/// Counters by KVM's names for them.
pub type Counters = BTreeMap<String, Value>;

/// The file is shorter than its header requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("KVM's statistics are shorter than their header requires")]
pub struct Truncated;

/// Bytes of a descriptor without its name.
const DESCRIPTOR: usize = size_of::<kvm_stats_desc>();
/// The most bytes that are read: ten times the size of Linux's file.
const MOST: usize = 64 << 10;

/// Reads the whole file's bytes.
///
/// # Errors
/// [`Truncated`], also for offsets that lead nowhere.
pub fn parse(bytes: &[u8]) -> Result<Counters, Truncated> {
    let [_, name_size, count, _, descriptors, data] =
        [0, 1, 2, 3, 4, 5].map(|i| word(bytes, i * 4));
    let (name_size, count, descriptors, data) = (name_size?, count?, descriptors?, data?);
    let mut counters = Counters::new();
    for index in 0..count {
        let stride = DESCRIPTOR.checked_add(name_size).ok_or(Truncated)?;
        let at = index.checked_mul(stride).ok_or(Truncated)?;
        let at = at.checked_add(descriptors).ok_or(Truncated)?;
        // flags: 4, exponent: 2, size: 2, offset: 4, bucket_size: 4, name.
        let size = piece(bytes, at.checked_add(6).ok_or(Truncated)?, 2)?;
        let size = usize::from(u16::from_le_bytes([size[0], size[1]]));
        let offset = word(bytes, at.checked_add(8).ok_or(Truncated)?)?;
        let name = piece(
            bytes,
            at.checked_add(DESCRIPTOR).ok_or(Truncated)?,
            name_size,
        )?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let start = data.checked_add(offset).ok_or(Truncated)?;
        let values = piece(bytes, start, size * 8)?.chunks_exact(8);
        let mut values: Vec<u64> = values
            .map(|v| v.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
            .collect();
        let value = match (values.len(), values.pop()) {
            (1, Some(only)) => Value::Number(only),
            (_, last) => {
                values.extend(last);
                Value::Buckets(values)
            }
        };
        counters.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(counters)
}

fn piece(bytes: &[u8], at: usize, size: usize) -> Result<&[u8], Truncated> {
    let end = at.checked_add(size).ok_or(Truncated)?;
    bytes.get(at..end).ok_or(Truncated)
}

fn word(bytes: &[u8], at: usize) -> Result<usize, Truncated> {
    let word = piece(bytes, at, 4)?;
    Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize)
}

/// Reads the current counters from a file of KVM_GET_STATS_FD.
///
/// # Errors
/// The errno, or [`Truncated`].
pub fn read(file: &File) -> io::Result<Counters> {
    let mut bytes = Vec::with_capacity(8192);
    let mut page = [0; 4096];
    while bytes.len() < MOST {
        // The file cannot seek, so each read gives its offset.
        match file.read_at(&mut page, bytes.len() as u64)? {
            0 => break,
            n => bytes.extend_from_slice(page.get(..n).unwrap_or_default()),
        }
    }
    parse(&bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_stats_header;

    use super::*;

    const HEADER: usize = size_of::<kvm_stats_header>();

    /// As the kernel lays it out: header, id, descriptors, data.
    fn file(counters: &[(&str, u16, u32)], data: &[u64]) -> Vec<u8> {
        const NAME: usize = 16;
        let id = HEADER;
        let descriptors = id + NAME;
        let values = descriptors + counters.len() * (DESCRIPTOR + NAME);
        let mut bytes = Vec::new();
        let header = [0, NAME, counters.len(), id, descriptors, values];
        header
            .iter()
            .for_each(|n| bytes.extend((*n as u32).to_le_bytes()));
        let padded = |name: &str| {
            let mut name = name.as_bytes().to_vec();
            name.resize(NAME, 0);
            name
        };
        bytes.extend(padded("kvm-1/vcpu-0"));
        for (name, size, offset) in counters {
            bytes.extend([0; 4]);
            bytes.extend(0i16.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(padded(name));
        }
        data.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes
    }

    #[test]
    fn counters_and_histograms() {
        let bytes = file(
            &[("exits", 1, 8), ("halt_hist", 3, 16), ("irq_exits", 1, 0)],
            &[u64::MAX, 12, 1, 2, 3],
        );
        let counters = parse(&bytes).unwrap();
        let expected = [
            ("exits", Value::Number(12)),
            ("halt_hist", Value::Buckets(vec![1, 2, 3])),
            ("irq_exits", Value::Number(u64::MAX)),
        ];
        assert_eq!(
            counters,
            expected
                .map(|(name, value)| (name.to_string(), value))
                .into()
        );
        assert_eq!(counters["exits"].number(), Some(12));
        assert_eq!(counters["halt_hist"].number(), None);
    }

    #[test]
    fn a_name_may_fill_its_field() {
        let bytes = file(&[("sixteen_letters_", 1, 0)], &[7]);
        assert_eq!(parse(&bytes).unwrap()["sixteen_letters_"], Value::Number(7));
    }

    #[test]
    fn every_shorter_file_is_refused() {
        let bytes = file(&[("exits", 1, 0), ("hist", 2, 8)], &[1, 2, 3]);
        assert!(parse(&bytes).is_ok());
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Err(Truncated), "{length}");
        }
    }

    #[test]
    fn offsets_that_lead_nowhere_are_refused() {
        let good = file(&[("exits", 1, 0)], &[1]);
        for field in [1, 2, 4, 5] {
            let mut bytes = good.clone();
            bytes[field * 4..][..4].fill(0xff);
            assert_eq!(parse(&bytes), Err(Truncated), "header field {field}");
        }
        let mut bytes = good;
        bytes[HEADER + 16 + 8..][..4].fill(0xff);
        assert_eq!(parse(&bytes), Err(Truncated), "a counter's offset");
    }
}
