//! BARs that the device could make larger (PCI Express 6.0, 7.8.6;
//! Documentation/ABI/testing/sysfs-bus-pci, `resource<N>_resize`).
//!
//! A guest does not see the capability, because the BAR must not change under VFIO's maps. So the
//! size is chosen on the host, before the run.

use std::path::Path;
use std::{fs, io};

use crate::log::degraded::{self, Code};

/// A BAR that could be larger: its number, its size and the largest size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Small {
    bar: usize,
    size: u64,
    most: u64,
}

/// Tells the user of the BARs of a device that could be larger. `dir` is the device's directory in
/// sysfs. `read` reads a file with a time limit, because the kernel wakes the device to read its
/// capability (drivers/pci/pci-sysfs.c, `__resource_resize_show`).
pub fn tell_if_small(name: &str, dir: &Path, read: impl Fn(&Path) -> io::Result<Vec<u8>>) {
    for Small { bar, size, most } in small(dir, read) {
        let what = format!("BAR {bar} has {} MiB", size >> 20);
        let why = format!(
            "the device can make it {} MiB, and the host has not",
            most >> 20
        );
        // The attribute takes the logarithm of the size in MiB.
        let log = (most >> 20).ilog2();
        degraded::tell(Code::BarNotResized.loss(what, why).of(name).hint(format!(
            "turn \"resizable BAR\" on in the firmware; or as root, while the device has no \
             driver: echo {log} > /sys/bus/pci/devices/{name}/resource{bar}_resize"
        )));
    }
}

fn small(dir: &Path, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Vec<Small> {
    // A device without the capability, and a kernel before 6.1, have no such file.
    let resources = fs::read_to_string(dir.join("resource")).unwrap_or_default();
    let small = resources
        .lines()
        .take(6)
        .enumerate()
        .filter_map(|(bar, line)| {
            let file = dir.join(format!("resource{bar}_resize"));
            let sizes = file.exists().then(|| read(&file))?.ok()?;
            // Bit n stands for 2^n MiB.
            let log = hex(str::from_utf8(&sizes).ok()?.trim())?.checked_ilog2()?;
            let most = (1u64 << 20).checked_shl(log).filter(|most| *most != 0)?;
            let mut words = line.split_whitespace();
            let (first, last) = (hex(words.next()?)?, hex(words.next()?)?);
            let size = last.checked_sub(first)?.checked_add(1)?;
            (size < most).then_some(Small { bar, size, most })
        });
    small.collect()
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn a_bar_below_its_largest_size_is_small() {
        let dir = TempDir::new().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.as_path().join(name), text).unwrap();
        assert_eq!(small(dir.as_path(), |path| fs::read(path)), []);
        write(
            "resource",
            "0x00000000f0000000 0x00000000f0ffffff 0x0000000000040200\n\
             0x0000004000000000 0x000000400fffffff 0x000000000014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n",
        );
        assert_eq!(small(dir.as_path(), |path| fs::read(path)), []);
        // 256 MiB to 16 GiB.
        write("resource1_resize", "0000000000007f00\n");
        let found = Small {
            bar: 1,
            size: 256 << 20,
            most: 16 << 30,
        };
        assert_eq!(small(dir.as_path(), |path| fs::read(path)), [found]);
        write("resource1_resize", "0000000000000100\n");
        write("resource0_resize", "nonsense\n");
        assert_eq!(small(dir.as_path(), |path| fs::read(path)), []);
        write("resource1_resize", "0000000000000f00\n");
        tell_if_small("0000:44:00.0", dir.as_path(), |path| fs::read(path));
        let told = degraded::list();
        let told = told
            .iter()
            .find(|d| d.device.as_deref() == Some("0000:44:00.0"))
            .unwrap();
        assert_eq!(told.code, Code::BarNotResized);
        assert!(told.why.contains("2048 MiB"), "{}", told.why);
        assert!(told.hint.contains("echo 11 > "), "{}", told.hint);
    }
}
