//! A finding: a judged fact with its level.

use pci::Bdf;
use serde::Serialize;

/// The meaning of a fact for passing a device through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The fact is as it should be.
    Pass,
    /// Passthrough works, but worse than it could, or only after a further step such as a bind.
    Warn,
    /// Passthrough does not work.
    Fail,
}

/// A judged fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, which does not change between versions.
    pub name: &'static str,
    /// The device that was checked; `None` for the host.
    pub device: Option<Bdf>,
    /// The level.
    pub level: Level,
    /// The fact, in a few words.
    pub text: String,
    /// The remedy; `None` if the check passes.
    pub fix: Option<String>,
}

impl Finding {
    pub(super) fn pass(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            device: None,
            level: Level::Pass,
            text: text.into(),
            fix: None,
        }
    }

    pub(super) fn warn(
        name: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warn,
            fix: Some(fix.into()),
            ..Self::pass(name, text)
        }
    }

    pub(super) fn fail(
        name: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(name, text, fix)
        }
    }

    pub(super) fn of(self, device: Bdf) -> Self {
        Self {
            device: Some(device),
            ..self
        }
    }
}

/// Whether no check fails. The exit status is 0 then.
pub fn is_good(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.level != Level::Fail)
}
