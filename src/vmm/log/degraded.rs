//! What a guest gets less of than its user expects, each told once.
//!
//! A loss of this kind ends no run: a BAR that traps, a device without a reset, no peer-to-peer
//! DMA. Code that finds one calls [`tell`]. The user sees one warning at the default log level,
//! and `--stats` reports the same list as `degraded`. `explain` only lists: its report shows the
//! losses that are known before a run. docs/stats.md lists the codes.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};
use tracing::{info, warn};

/// Declares the codes: each has a comment, a variant and a name.
macro_rules! codes {
    ($($(#[$comment:meta])+ $variant:ident = $name:literal,)+) => {
        /// A stable name of a kind of loss. The name is a part of the interface to programs: a
        /// code may be added, and a code keeps its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$comment])+ $variant,)+
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, as in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

codes! {
    /// Each access to a BAR is an exit.
    BarTrapped = "bar-trapped",
    /// A BAR is smaller than the device could make it.
    BarNotResized = "bar-not-resized",
    /// The device does not answer after a reset, and is removed from the guest.
    DeviceDead = "device-dead",
    /// The device has reported an error, and is removed from the guest.
    DeviceFailed = "device-failed",
    /// The host no longer gives out the device's BARs, and the device is removed from the guest.
    DeviceGone = "device-gone",
    /// The host has asked for the device, and the device is removed from the guest.
    DeviceReturned = "device-returned",
    /// The device has fewer MSI messages than its capability says.
    FewerMsiVectors = "fewer-msi-vectors",
    /// An integrated GPU has neither its part of the host's memory nor the firmware's tables.
    IgdWithoutFirmware = "igd-without-firmware",
    /// The host refuses interrupts that the guest has enabled.
    InterruptsRefused = "interrupts-refused",
    /// Each interrupt of the pin wakes a thread of the VMM.
    IntxByThread = "intx-by-thread",
    /// Writes that KVM could keep in its ring are exits.
    NoCoalescedWrites = "no-coalesced-writes",
    /// An uncorrectable error of the device is not reported.
    NoErrorEvent = "no-error-event",
    /// The host has lost a page of the guest's RAM.
    MemoryLost = "memory-lost",
    /// RAM is of small pages, though the user has not asked for them.
    NoHugePages = "no-huge-pages",
    /// `--stats` has no counters of KVM's.
    NoKvmCounters = "no-kvm-counters",
    /// The kernel's Landlock does not confine which files are opened, or not all of it.
    NoLandlock = "no-landlock",
    /// Devices cannot reach each other's BARs by DMA.
    NoPeerToPeer = "no-peer-to-peer",
    /// An endpoint is on bus 0, because its BARs fit no window of a root port.
    NoPort = "no-port",
    /// The host cannot ask for the device while the guest runs.
    NoRequestEvent = "no-request-event",
    /// The kernel cannot filter system calls, so that nothing is confined.
    NoSandbox = "no-sandbox",
    /// The device is not reset, neither before the first boot nor at a reboot.
    NoReset = "no-reset",
    /// The kernel does not report one of the device's regions.
    RegionMissing = "region-missing",
    /// A reset of the device has failed.
    ResetFailed = "reset-failed",
    /// The expansion ROM cannot be read.
    RomUnreadable = "rom-unreadable",
    /// A vCPU is not pinned to the host CPU that the user chose.
    VcpuNotPinned = "vcpu-not-pinned",
}

impl Code {
    /// A loss of this kind; the loss is the whole guest's unless [`Degraded::of`] names a device.
    pub fn loss(self, what: impl Into<String>, why: impl Into<String>) -> Degraded {
        Degraded {
            code: self,
            device: None,
            what: what.into(),
            why: why.into(),
            hint: String::new(),
        }
    }
}

impl Degraded {
    /// The loss of one device, by the host's name.
    pub fn of(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// The loss with what the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Degraded {
    /// The kind of loss.
    pub code: Code,
    /// The host's name of the device; `None` if the loss is the whole guest's.
    pub device: Option<String>,
    /// What the guest lacks.
    pub what: String,
    /// Why the guest lacks it.
    pub why: String,
    /// What the user can do.
    pub hint: String,
}

/// The loss as a sentence, without its hint.
impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = &self.device {
            write!(f, "{device}: ")?;
        }
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// The losses of this process, in the order in which they were told. The list belongs to the
/// process, as the log does.
static TOLD: Mutex<Vec<Degraded>> = Mutex::new(Vec::new());
/// Whether losses are listed without a warning.
static ONLY_LISTED: AtomicBool = AtomicBool::new(false);
/// The length at which the list ends. No run has so many kinds of losses; a text that differs each
/// time must not make the list grow.
const MOST: usize = 1024;

/// Called with each loss that is told from now on.
type Observer = Box<dyn Fn(&Degraded) + Send + Sync>;
static OBSERVER: Mutex<Option<Observer>> = Mutex::new(None);

/// Calls `observer` with each loss, once it is in the list. Any thread may call it, and it must
/// return at once.
pub fn observe(observer: impl Fn(&Degraded) + Send + Sync + 'static) {
    *OBSERVER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(observer));
}

/// Lists losses without a warning from now on, for a command that prints the list itself.
pub fn only_list() {
    ONLY_LISTED.store(true, Ordering::Relaxed);
}

/// Tells the user of a loss. The loss is told once for each code, device and `what`, however often
/// a guest makes it occur again. So `what` names no value that a guest chooses.
pub fn tell(loss: Degraded) {
    let warns = !ONLY_LISTED.load(Ordering::Relaxed);
    if list_once(&loss) && warns {
        warn!("{loss} [{}]; hint: {}", loss.code, loss.hint);
    }
}

/// As [`tell`], for a loss that is no reason to disturb the user: the message is one of `-v`.
pub fn note(loss: Degraded) {
    let says = !ONLY_LISTED.load(Ordering::Relaxed);
    if list_once(&loss) && says {
        info!("{loss} [{}]; hint: {}", loss.code, loss.hint);
    }
}

/// Adds a loss to the list, and returns whether it was not there.
fn list_once(loss: &Degraded) -> bool {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |old: &Degraded| {
        (old.code, &old.device, &old.what) == (loss.code, &loss.device, &loss.what)
    };
    if told.len() >= MOST || told.iter().any(known) {
        return false;
    }
    told.push(loss.clone());
    drop(told);
    if let Some(observer) = &*OBSERVER.lock().unwrap_or_else(PoisonError::into_inner) {
        observer(loss);
    }
    true
}

/// A device has left the guest: the list has the losses of those that are there. If the device
/// comes again, its losses are told again.
pub fn forget(device: &str) {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.retain(|loss| loss.device.as_deref() != Some(device));
}

/// The losses that were told, in order.
pub fn list() -> Vec<Degraded> {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_for_each_device() {
        let loss = |device: &str, why: &str| Degraded {
            code: Code::NoPeerToPeer,
            device: Some(device.to_owned()),
            what: "no peer-to-peer DMA".to_owned(),
            why: why.to_owned(),
            hint: "--iommu container".to_owned(),
        };
        tell(loss("a test's device", "first"));
        tell(loss("a test's device", "again"));
        tell(loss("a test's other device", "first"));
        let ours: Vec<_> = list()
            .into_iter()
            .filter(|d| {
                d.device
                    .as_deref()
                    .is_some_and(|n| n.starts_with("a test's"))
            })
            .collect();
        assert_eq!(
            ours,
            [
                loss("a test's device", "first"),
                loss("a test's other device", "first")
            ]
        );
        forget("a test's device");
        tell(loss("a test's device", "after it came again"));
        let told = list();
        let whys = told
            .iter()
            .filter(|d| d.device.as_deref() == Some("a test's device"));
        let whys: Vec<_> = whys.map(|d| d.why.as_str()).collect();
        assert_eq!(whys, ["after it came again"]);
    }
}
