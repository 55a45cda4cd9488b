//! Names of vendors and devices, from the list that pciutils or hwdata installs.
//!
//! The list is read at run time: if the list were built in, the program would be more than twice as
//! large.

use std::fs;
use std::path::Path;

/// The paths of the list on common distributions.
const LISTS: [&str; 3] = [
    "/usr/share/misc/pci.ids",
    "/usr/share/hwdata/pci.ids",
    "/usr/share/pci.ids",
];

/// The list; empty if none is installed.
#[derive(Clone, Debug, Default)]
pub struct Names(String);

impl Names {
    /// Reads the first list that exists.
    pub fn read() -> Self {
        let mut lists = LISTS.iter().map(Path::new);
        let list = lists.find_map(|path| fs::read(path).ok());
        Self::parse(&list.unwrap_or_default())
    }

    /// Reads a list from its text. Bytes that are not UTF-8 are replaced.
    pub fn parse(list: &[u8]) -> Self {
        Self(String::from_utf8_lossy(list).into_owned())
    }

    /// The names of the vendor and of the device; `None` for a name that the list lacks.
    ///
    /// A vendor's line is "vvvv name". The vendor's devices follow on lines that begin with one
    /// tab. A device's subsystems follow on lines that begin with two tabs.
    pub fn find(&self, vendor: u16, device: u16) -> (Option<&str>, Option<&str>) {
        let mut lines = self.0.lines().filter(|line| !line.starts_with('#'));
        let Some(name) = lines.find_map(|line| named(line, vendor)) else {
            return (None, None);
        };
        let device = lines
            .take_while(|line| line.starts_with('\t') || line.is_empty())
            .find_map(|line| named(line.strip_prefix('\t')?, device));
        (Some(name), device)
    }
}

/// The name on this line, if the line begins with this ID.
fn named(line: &str, id: u16) -> Option<&str> {
    let (number, name) = line.split_once("  ")?;
    let found = number.len() == 4 && u16::from_str_radix(number, 16) == Ok(id);
    found.then(|| name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# a comment\n\n1b35  First\n\t0010  Wrong\n1b36  Red Hat, Inc.\n\
        \t000d  QEMU XHCI\n\t0010  QEMU NVM Express\n\t\t1af4 1100  A board\n\
        \t0011  Above\n1b37  Last\n\t0012  Not of 1b36\nC 01  Mass storage\n\t08  NVM\n";

    #[test]
    fn names_of_both() {
        let names = Names::parse(LIST.as_bytes());
        assert_eq!(
            names.find(0x1b36, 0x10),
            (Some("Red Hat, Inc."), Some("QEMU NVM Express"))
        );
        assert_eq!(names.find(0x1b36, 0x12), (Some("Red Hat, Inc."), None));
        assert_eq!(names.find(0x1b36, 0x1af4), (Some("Red Hat, Inc."), None));
        assert_eq!(names.find(0x1b37, 0x12).1, Some("Not of 1b36"));
        assert_eq!(names.find(0xc, 1), (None, None));
        assert_eq!(Names::default().find(0x1b36, 0x10), (None, None));
    }

    #[test]
    fn any_bytes_are_a_list() {
        let names = Names::parse(b"1b36  Caf\xe9\n\t\xff\n\t0010  x");
        assert_eq!(names.find(0x1b36, 0x10).1, Some("x"));
        assert!(names.find(0x1b36, 0).0.is_some());
    }
}
