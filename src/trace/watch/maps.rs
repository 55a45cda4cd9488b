//! The mappings of files in a process's memory.

use std::fs::File;
use std::io::{BufRead, BufReader};

use libc::pid_t;

use crate::files::open_file::FileRef;

/// The most mappings that are remembered of one memory. The kernel's own limit is 65,530.
const MOST: usize = 1 << 16;

/// A mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    start: u64,
    len: u64,
    file: FileRef,
    offset: u64,
}

/// The mappings of one memory that are of files that the trace names.
#[derive(Clone, Debug, Default)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// A mapping was made.
    pub fn add(&mut self, start: u64, len: u64, file: FileRef, offset: u64) {
        self.remove(start, len);
        if self.0.len() < MOST {
            self.0.push(Mapping {
                start,
                len,
                file,
                offset,
            });
        }
    }

    /// Something else is mapped there now, or nothing. What is left of a mapping stays.
    pub fn remove(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len);
        if !self.0.iter().any(|m| overlaps(m, start, end)) {
            return;
        }
        let mut left = Vec::new();
        for mapping in self.0.drain(..) {
            let mapping_end = mapping.start.saturating_add(mapping.len);
            if !overlaps(&mapping, start, end) {
                left.push(mapping);
                continue;
            }
            if mapping_end > end {
                let skipped = end - mapping.start;
                left.push(Mapping {
                    start: end,
                    len: mapping_end - end,
                    file: mapping.file.clone(),
                    offset: mapping.offset.saturating_add(skipped),
                });
            }
            if mapping.start < start {
                let len = start - mapping.start;
                left.push(Mapping { len, ..mapping });
            }
        }
        self.0 = left;
    }

    /// Where the start of a file is mapped, and how many bytes.
    pub fn of(&self, file: u32) -> Option<(u64, u64)> {
        let mut of_file = self.0.iter().filter(|m| m.file.id == file && m.offset == 0);
        of_file.next().map(|m| (m.start, m.len))
    }

    /// The file that is mapped somewhere in a range, and the offset of that part.
    pub fn at(&self, start: u64, len: u64) -> Option<(&FileRef, u64)> {
        let end = start.saturating_add(len);
        let mapping = self.0.iter().find(|m| overlaps(m, start, end))?;
        let inside = start.saturating_sub(mapping.start);
        Some((&mapping.file, mapping.offset.saturating_add(inside)))
    }
}

fn overlaps(mapping: &Mapping, start: u64, end: u64) -> bool {
    mapping.start < end && start < mapping.start.saturating_add(mapping.len)
}

/// Looks for a vCPU's page in /proc: its mapping may be older than the trace knows.
pub fn find_vcpu(tid: pid_t, number: &str) -> Option<(u64, u64)> {
    let file = File::open(format!("/proc/{tid}/maps")).ok()?;
    let name = format!("anon_inode:kvm-vcpu:{number}");
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        if let Some((start, len, 0)) = parse(&line, &name) {
            return Some((start, len));
        }
    }
    None
}

/// Start, length and offset of a line of /proc/PID/maps, if it has this name.
fn parse(line: &str, name: &str) -> Option<(u64, u64, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let offset = words.nth(1)?;
    (words.nth(2)? == name).then_some(())?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let start = number(start)?;
    Some((start, number(end)?.checked_sub(start)?, number(offset)?))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::files::open_file::{FileKind, OpenFile};

    fn file(id: u32) -> FileRef {
        Rc::new(OpenFile {
            id,
            kind: FileKind::Eventfd,
            name: String::new(),
            vm: None,
        })
    }

    #[test]
    fn a_hole_splits_a_mapping() {
        let mut mappings = Mappings::default();
        mappings.add(0x1000, 0x3000, file(1), 0);
        mappings.remove(0x2000, 0x1000);
        assert_eq!(mappings.of(1), Some((0x1000, 0x1000)));
        assert!(mappings.at(0x2000, 0x1000).is_none());
        let (of, offset) = mappings.at(0x3000, 1).unwrap();
        assert_eq!((of.id, offset), (1, 0x2000));
        mappings.add(0x1000, 0x1000, file(2), 0);
        assert_eq!(mappings.of(1), None);
        mappings.remove(0, u64::MAX);
        assert!(mappings.0.is_empty());
        mappings.add(u64::MAX - 1, u64::MAX, file(1), u64::MAX);
        mappings.remove(0, u64::MAX);
    }

    #[test]
    fn a_line_of_maps() {
        let line = "7f0000000000-7f0000003000 rw-s 00000000 00:0e 1 anon_inode:kvm-vcpu:1";
        let found = parse(line, "anon_inode:kvm-vcpu:1");
        assert_eq!(found, Some((0x7f00_0000_0000, 0x3000, 0)));
        assert_eq!(parse(line, "anon_inode:kvm-vcpu:11"), None);
        assert_eq!(parse("", "x"), None);
    }
}
