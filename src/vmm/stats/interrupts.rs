//! Interrupts of the devices, from the host's /proc/interrupts.
//!
//! VFIO names each interrupt that it requests: `vfio-msix[3](0000:01:00.0)`, `vfio-msi[0](...)`,
//! `vfio-intx(...)`. The line disappears when the guest disables the interrupt, as it does before a
//! power-off. The [`Ledger`] keeps the counts of lines that have disappeared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::log::limit::RateLimit;
use crate::vfio::device::Irq;

/// An interrupt of a device, as VFIO names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The host's name of the device.
    pub device: String,
    /// `msix`, `msi` or `intx`.
    pub kind: &'static str,
    /// 0 for INTx.
    pub vector: u32,
}

/// Reads the count of each VFIO interrupt from the text of /proc/interrupts. A shared interrupt is
/// returned once for each of its names, with the same count.
pub fn parse(text: &str) -> Vec<(Source, u64)> {
    text.lines().flat_map(parse_line).collect()
}

fn parse_line(line: &str) -> Vec<(Source, u64)> {
    let Some((_, rest)) = line.split_once(':') else {
        return Vec::new();
    };
    let counts = rest.split_ascii_whitespace().map_while(|w| w.parse().ok());
    let count = counts.fold(0, u64::saturating_add);
    let names = rest.split([' ', ',', '\t']).filter_map(source);
    names.map(|source| (source, count)).collect()
}

/// `vfio-msix[3](0000:01:00.0)`.
fn source(name: &str) -> Option<Source> {
    let (head, device) = name.strip_suffix(')')?.split_once('(')?;
    let (kind, vector) = match head.split_once('[') {
        None => (head, 0),
        Some((kind, vector)) => (kind, vector.strip_suffix(']')?.parse().ok()?),
    };
    let kind = match kind {
        "vfio-msix" => "msix",
        "vfio-msi" => "msi",
        "vfio-intx" => "intx",
        _ => return None,
    };
    Some(Source {
        device: device.into(),
        kind,
        vector,
    })
}

/// A vector and its count in this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vector {
    /// The host's name of the device.
    pub device: String,
    /// `msix`, `msi` or `intx`.
    pub kind: &'static str,
    /// The vector's number; 0 for INTx.
    pub vector: u32,
    /// How many interrupts came.
    pub interrupts: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// Interrupts in this run.
    total: u64,
    /// The line's count when it was last read.
    seen: u64,
}

/// The counts of all interrupts in this run.
#[derive(Default)]
pub struct Ledger {
    /// /proc/interrupts, or the error of opening; `None` without `--stats`.
    file: Option<io::Result<File>>,
    counts: Mutex<BTreeMap<Source, Count>>,
    limit: RateLimit,
}

impl Ledger {
    /// Opens /proc/interrupts: a confined vCPU reads the file and opens none.
    pub fn open() -> Self {
        Self {
            file: Some(File::open("/proc/interrupts")),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Source, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before a device's interrupts of one kind are disabled, because their lines
    /// disappear then.
    pub fn before_disable(&self, device: &str, irq: Irq) {
        let Some(kind) = kind(irq) else { return };
        self.look(|counts, now| {
            update(counts, now, |s| s.device == device && s.kind == kind);
        });
    }

    /// To be called after a device's interrupts of one kind were disabled. An earlier call would
    /// let a read in between count the lines twice.
    pub fn after_disable(&self, device: &str, irq: Irq) {
        let Some(kind) = kind(irq) else { return };
        close(&mut self.lock(), device, kind);
    }

    /// To be called after INTx was enabled. The line's count does not begin at 0, because the line
    /// may be shared.
    pub fn after_enable(&self, device: &str, irq: Irq) {
        if irq == Irq::Intx {
            self.look(|counts, now| open(counts, now, device, "intx"));
        }
    }

    /// The current counts of the devices named in `wanted`.
    pub fn vectors(&self, wanted: &[String]) -> Vec<Vector> {
        let mut vectors = Vec::new();
        self.look(|counts, now| {
            update(counts, now, |source| wanted.contains(&source.device));
            vectors = counts.iter().map(vector).collect();
        });
        vectors
    }

    fn look(&self, then: impl FnOnce(&mut BTreeMap<Source, Count>, &[(Source, u64)])) {
        match &self.file {
            None => {}
            Some(Ok(file)) => self.look_at(|| read(file), then),
            Some(Err(e)) => self.complain(e),
        }
    }

    /// Calls `read` for the text of /proc/interrupts, and `then` with the counts, both under the
    /// lock. Otherwise a thread could process an older text after a newer text, and count
    /// interrupts twice.
    fn look_at(
        &self,
        read: impl FnOnce() -> io::Result<String>,
        then: impl FnOnce(&mut BTreeMap<Source, Count>, &[(Source, u64)]),
    ) {
        let mut counts = self.lock();
        let text = read().unwrap_or_else(|e| {
            self.complain(&e);
            String::new()
        });
        then(&mut counts, &parse(&text));
    }

    fn complain(&self, error: &io::Error) {
        if self.limit.allow() {
            tracing::warn!("interrupts are not counted: /proc/interrupts: {error}");
        }
    }
}

/// Reads the file anew, from its start to its end.
fn read(file: &File) -> io::Result<String> {
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match file.read_at(&mut part, text.len() as u64) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(size) => text.extend_from_slice(part.get(..size).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn kind(irq: Irq) -> Option<&'static str> {
    match irq {
        Irq::Intx => Some("intx"),
        Irq::Msi => Some("msi"),
        Irq::Msix => Some("msix"),
        Irq::Error | Irq::Request => None,
    }
}

fn vector((source, count): (&Source, &Count)) -> Vector {
    Vector {
        device: source.device.clone(),
        kind: source.kind,
        vector: source.vector,
        interrupts: count.total,
    }
}

/// Adds the interrupts since the last read.
fn update(
    counts: &mut BTreeMap<Source, Count>,
    now: &[(Source, u64)],
    wanted: impl Fn(&Source) -> bool,
) {
    for (source, line) in now.iter().filter(|(source, _)| wanted(source)) {
        let count = counts.entry(source.clone()).or_default();
        count.total += line.saturating_sub(count.seen);
        count.seen = *line;
    }
}

/// Records that the next line of the same name begins at 0, because the host has freed the
/// interrupts.
fn close(counts: &mut BTreeMap<Source, Count>, device: &str, kind: &str) {
    for (source, count) in counts {
        if source.device == device && source.kind == kind {
            count.seen = 0;
        }
    }
}

/// Records that the line's current count belongs to earlier users of the interrupt.
fn open(counts: &mut BTreeMap<Source, Count>, now: &[(Source, u64)], device: &str, kind: &str) {
    for (source, count) in now {
        if source.device == device && source.kind == kind {
            counts.entry(source.clone()).or_default().seen = *count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1
   1:          9          0  IR-IO-APIC    1-edge      i8042
  16:         40          2  IR-IO-APIC   16-fasteoi   uhci_hcd:usb1, vfio-intx(0000:00:1d.0)
  24:        100         23  IR-PCI-MSIX-0000:00:05.0    0-edge      vfio-msix[0](0000:00:05.0)
  25:          0   12345678  IR-PCI-MSIX-0000:00:05.0   17-edge      vfio-msix[17](0000:00:05.0)
  26:          7          0  PCI-MSI 98304-edge      vfio-msi[0](0000:00:06.0)
 NMI:          0          0   Non-maskable interrupts
 ERR:          0
";

    fn on(device: &str, kind: &'static str, vector: u32) -> Source {
        Source {
            device: device.into(),
            kind,
            vector,
        }
    }

    #[test]
    fn lines_of_vfio_are_found() {
        let expected = [
            (on("0000:00:1d.0", "intx", 0), 42),
            (on("0000:00:05.0", "msix", 0), 123),
            (on("0000:00:05.0", "msix", 17), 12_345_678),
            (on("0000:00:06.0", "msi", 0), 7),
        ];
        assert_eq!(parse(TEXT), expected);
    }

    #[test]
    fn other_lines_are_nothing() {
        for text in [
            "",
            "24:",
            "24: 1 vfio-msix[x](0000:00:05.0)",
            "24: 1 vfio-msix[0](0000:00:05.0",
            "24: 1 vfio-user[0](0000:00:05.0)",
            "vfio-intx(0000:00:05.0)",
        ] {
            assert_eq!(parse(text), [], "{text}");
        }
    }

    #[test]
    fn the_text_is_read_under_the_lock() {
        let ledger = Ledger::default();
        let read = || {
            assert!(ledger.counts.try_lock().is_err());
            Ok(TEXT.to_string())
        };
        let mut lines = 0;
        ledger.look_at(read, |_, now| lines = now.len());
        assert_eq!(lines, 4);
    }

    #[test]
    fn the_open_file_is_read_anew_each_time() {
        let ledger = Ledger::open();
        let file = ledger.file.as_ref().unwrap().as_ref().unwrap();
        let texts = [read(file).unwrap(), read(file).unwrap()];
        for text in &texts {
            assert!(text.contains("CPU0") && text.ends_with('\n'), "{text}");
            // The kernel has the last line for every processor (arch/x86/kernel/irq.c).
            assert!(text.lines().last().unwrap().contains(':'), "{text}");
        }
        assert_eq!(texts[0].lines().count(), texts[1].lines().count());
        let mut looked = false;
        ledger.look(|_, _| looked = true);
        assert!(looked);
        Ledger::default().look(|_, _| panic!("without --stats there is no file"));
    }

    #[test]
    fn vectors_that_come_and_go_add_up() {
        let (msix, pin) = (on("a", "msix", 1), on("a", "intx", 0));
        let mut counts = BTreeMap::new();
        update(&mut counts, &[(msix.clone(), 5)], |_| true);
        update(&mut counts, &[(msix.clone(), 8)], |_| true);
        update(&mut counts, &[(msix.clone(), 9)], |_| true);
        // A report while they go off.
        update(&mut counts, &[(msix.clone(), 9)], |_| true);
        close(&mut counts, "a", "msix");
        // Freed and taken again: it begins at 0.
        update(&mut counts, &[(msix.clone(), 20)], |_| true);
        open(&mut counts, &[(pin.clone(), 1000)], "a", "intx");
        update(&mut counts, &[(pin.clone(), 1001)], |_| true);
        update(&mut counts, &[(on("b", "msi", 0), 3)], |s| s.device == "a");
        let totals: Vec<_> = counts.iter().map(|(s, a)| (s.kind, a.total)).collect();
        assert_eq!(totals, [("intx", 1), ("msix", 29)]);
    }
}
