//! A process's private memory, from /proc/PID/smaps.

/// A process's private memory in KiB, without the guest's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Private {
    /// Dirty pages: the kernel can free such a page only when the process ends.
    pub dirty: u64,
    /// Clean pages: the content of such a page is that of its file.
    pub clean: u64,
}

/// A mapping of at least this many KiB is the guest's RAM. Each guest has at least 128 MiB.
const RAM: u64 = 96 << 10;

/// The size in KiB of the first part of mini-vmm's RAM, which has no huge pages. This part is a
/// mapping of its own, directly below the rest of the RAM.
const FIRST: u64 = 2 << 10;

/// Sums up /proc/PID/smaps (Documentation/filesystems/proc.rst).
pub fn private(smaps: &str) -> Private {
    let mappings: Vec<(u64, u64)> = smaps.lines().filter_map(addresses).collect();
    let kib = |&(start, end): &(u64, u64)| end.saturating_sub(start) >> 10;
    let is_ram = |mapping: &(u64, u64)| {
        kib(mapping) >= RAM
            || kib(mapping) == FIRST
                && mappings
                    .iter()
                    .any(|next| next.0 == mapping.1 && kib(next) >= RAM)
    };
    let mut sum = Private::default();
    let mut of_guest = false;
    for line in smaps.lines() {
        if let Some(mapping) = addresses(line) {
            of_guest = is_ram(&mapping);
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(value) = value.parse::<u64>() else {
            continue;
        };
        match key {
            "Private_Dirty:" if !of_guest => sum.dirty += value,
            "Private_Clean:" if !of_guest => sum.clean += value,
            _ => {}
        }
    }
    sum
}

/// The first line of a mapping.
fn addresses(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_ram_does_not_count() {
        // A program, 2 MiB of private memory, RAM in two mappings, a stack.
        let smaps = "55d000-55e000 r-xp 00000000 08:01 1 /bin/vmm\nPrivate_Clean: 40 kB\n\
                     Private_Dirty: 2 kB\n60000000-60200000 rw-p 00000000 00:00 0\n\
                     Private_Dirty: 100 kB\n70000000-70200000 rw-p 00000000 00:00 0\n\
                     Private_Dirty: 2048 kB\n70200000-78000000 rw-p 00000000 00:00 0\n\
                     Private_Clean: 0 kB\nPrivate_Dirty: 77 kB\n\
                     7fff0000-7fff8000 rw-p 0 00:00 0 [stack]\nPrivate_Clean: 0 kB\n\
                     Private_Dirty: 8 kB\nVmFlags: rd wr\n";
        assert_eq!(
            private(smaps),
            Private {
                dirty: 110,
                clean: 40
            }
        );
    }
}
