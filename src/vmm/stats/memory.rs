//! The host memory that the process itself uses (proc_pid_smaps(5)).
//!
//! Mappings that overlap the guest's RAM are left out. Memory that the kernel uses for the process,
//! such as page tables, is not part of a mapping and not counted.

use std::{fs, io};

use pci::addr::Range;
use serde::Serialize;

/// Bytes of all mappings except the guest's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnMemory {
    /// Pages that only this process uses: the clean and dirty private pages of `smaps`, and private
    /// huge pages.
    pub private_bytes: u64,
    /// Private pages that this process has written.
    pub private_dirty_bytes: u64,
    /// Present pages, shared ones included.
    pub resident_bytes: u64,
    /// Present pages of the guest's RAM, which the other figures do not contain.
    pub guest_resident_bytes: u64,
}

impl OwnMemory {
    /// Asks the kernel. `guest` are the host addresses of the guest's RAM.
    ///
    /// # Errors
    /// When /proc/self/smaps cannot be read.
    pub fn read(guest: &[Range]) -> io::Result<Self> {
        let smaps = fs::read_to_string("/proc/self/smaps")?;
        Ok(Self::parse(&smaps, guest))
    }

    /// Reads the text of `smaps`.
    pub fn parse(smaps: &str, guest: &[Range]) -> Self {
        let mut sum = Self::default();
        let mut of_guest = false;
        for line in smaps.lines() {
            if let Some((start, end)) = addresses(line) {
                of_guest = guest.iter().any(|r| r.start < end && start < r.end());
                continue;
            }
            let Some((name, bytes)) = figure(line) else {
                continue;
            };
            // Rss does not contain the huge pages of hugetlbfs.
            if matches!(name, "Rss" | "Private_Hugetlb" | "Shared_Hugetlb") {
                if of_guest {
                    sum.guest_resident_bytes += bytes;
                } else {
                    sum.resident_bytes += bytes;
                }
            }
            if of_guest {
                continue;
            }
            match name {
                "Private_Clean" => sum.private_bytes += bytes,
                "Private_Dirty" | "Private_Hugetlb" => {
                    sum.private_bytes += bytes;
                    sum.private_dirty_bytes += bytes;
                }
                _ => {}
            }
        }
        sum
    }
}

/// The first line of a mapping: `7f00-8000 rw-p ...`.
fn addresses(line: &str) -> Option<(u64, u64)> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// A line `Name:   12 kB`.
fn figure(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once(':')?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((name, kib.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0200000 r-xp 00000000 fe:01 12 /usr/bin/mini-vmm
Size:               2048 kB
Rss:                 900 kB
Pss:                 900 kB
Shared_Clean:        100 kB
Shared_Dirty:          0 kB
Private_Clean:       700 kB
Private_Dirty:       100 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0020000000 rw-p 00000000 00:00 0
Rss:              524288 kB
Private_Clean:         0 kB
Private_Dirty:    524288 kB
7f0020000000-7f0020001000 rw-p 00000000 00:00 0 [anon: stack]
Rss:                   4 kB
Private_Clean:         0 kB
Private_Dirty:         4 kB
Private_Hugetlb:    2048 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
Rss:                   0 kB
";

    #[test]
    fn the_guest_is_left_out() {
        let guest = Range {
            start: 0x7f00_0000_0000,
            size: 512 << 20,
        };
        let expected = OwnMemory {
            private_bytes: (700 + 100 + 4 + 2048) << 10,
            private_dirty_bytes: (100 + 4 + 2048) << 10,
            resident_bytes: (904 + 2048) << 10,
            guest_resident_bytes: 512 << 20,
        };
        assert_eq!(OwnMemory::parse(SMAPS, &[guest]), expected);
        let all = OwnMemory::parse(SMAPS, &[]);
        assert_eq!(all.resident_bytes, (904 + 2048 + (512 << 10)) << 10);
        assert_eq!(OwnMemory::parse("", &[]), OwnMemory::default());
    }

    #[test]
    fn huge_pages_of_the_guest_are_present() {
        let guest = Range {
            start: 0x7f00_0000_0000,
            size: 1 << 30,
        };
        let smaps = "\
7f0000000000-7f0020000000 rw-s 00000000 00:0f 7 /memfd:ram (deleted)
Rss:                   0 kB
Shared_Hugetlb:     4096 kB
Private_Hugetlb:    2048 kB
7f0020000000-7f0040000000 rw-s 20000000 00:0f 7 /memfd:ram (deleted)
Rss:                   8 kB
";
        let expected = OwnMemory {
            guest_resident_bytes: (4096 + 2048 + 8) << 10,
            ..OwnMemory::default()
        };
        assert_eq!(OwnMemory::parse(smaps, &[guest]), expected);
    }

    #[test]
    fn this_process_has_memory() {
        let own = OwnMemory::read(&[]).unwrap();
        assert!(own.private_bytes > 0 && own.resident_bytes >= own.private_dirty_bytes);
    }
}
