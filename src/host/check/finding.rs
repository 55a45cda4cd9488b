//! A judged fact, and its level.

use serde::Serialize;

use crate::pci::Bdf;

/// How a fact bears on passing a device through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Pass,
    /// It works, or will when a step is taken that is still to come; or not as well as it could.
    Warn,
    /// It will not work.
    Fail,
}

/// One fact, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked: a name that stays.
    pub name: &'static str,
    /// The device that it is about, if one in particular.
    pub device: Option<Bdf>,
    /// The judgement.
    pub level: Level,
    /// The fact, in a few words.
    pub text: String,
    /// What mends it; always there unless it passes.
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

/// Whether nothing fails: exit status 0.
pub fn is_good(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.level != Level::Fail)
}
