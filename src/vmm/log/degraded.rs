//! What a guest gets less of than its user expects, each told once.
//!
//! A loss of this kind ends no run: a BAR that traps, a device without a reset, no peer-to-peer
//! DMA. Code that finds one calls [`tell`]. The user sees one warning at the default log level,
//! and `--stats` reports the same list as `degraded`. docs/stats.md lists the codes.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};
use tracing::warn;

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
    /// Devices cannot reach each other's BARs by DMA.
    NoPeerToPeer = "no-peer-to-peer",
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

/// Tells the user of a loss. The loss is told once for each code and device, however often a guest
/// makes it occur again.
pub fn tell(loss: Degraded) {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |old: &Degraded| old.code == loss.code && old.device == loss.device;
    if told.iter().any(known) {
        return;
    }
    told.push(loss.clone());
    drop(told);
    warn!("{loss} [{}]; hint: {}", loss.code, loss.hint);
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
    }
}
