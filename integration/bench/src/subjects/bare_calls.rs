//! The program that makes the bare calls (src/bin/floor). It has a guest of its own.

use super::arguments::Arguments;
use super::guest::Guest;

/// The arguments for one start of the program's guest. With devices, the program first fills the
/// RAM and maps it for them.
pub fn arguments(guest: &Guest<'_>, with_cpuid: bool) -> Arguments {
    let mut words = Arguments::default();
    let job = if with_cpuid {
        "boot"
    } else {
        "boot-without-cpuid"
    };
    words.text(&[job, &guest.mib.to_string(), &guest.cpus.to_string()]);
    words.text(guest.devices);
    words
}

/// A measurement of `floor map`: RAM is made, mapped for the DMA of one device, and unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// "iommufd" or "type1".
    pub interface: &'a str,
    /// The device's PCI address.
    pub device: &'a str,
    /// RAM in MiB.
    pub mib: u32,
    /// "4K", "thp", "2M" or "1G".
    pub pages: &'a str,
    /// The number of threads that fill the RAM.
    pub threads: u32,
}

impl Map<'_> {
    /// The arguments for this measurement.
    pub fn arguments(&self) -> Arguments {
        let mut words = Arguments::default();
        let (mib, threads) = (self.mib.to_string(), self.threads.to_string());
        words.text(&["map", self.interface, self.device, &mib]);
        words.text(&[self.pages, &threads]);
        words
    }
}
