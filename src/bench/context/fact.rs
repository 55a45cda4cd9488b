//! A judged fact.

use serde::{Deserialize, Serialize};

/// The name of the fact about the link.
pub const LINK: &str = "link";

/// The name of the fact about the link while the work ran.
pub const LINK_UNDER_LOAD: &str = "link under load";

/// The name of the fact about throttled CPUs.
pub const THROTTLED: &str = "throttled";

/// What a fact means for the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The fact is as it should be, or is there to be known.
    Good,
    /// The figures are noisier, or lower, than this machine could have them.
    Poor,
    /// The figures say nothing about the device.
    Invalid,
}

/// A judged fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Its name, which does not change between versions.
    pub name: String,
    /// What it means.
    pub verdict: Verdict,
    /// The fact in words.
    pub text: String,
    /// The command that changes it.
    pub remedy: Option<String>,
}

impl Fact {
    pub(super) fn good(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Good,
            text: text.into(),
            remedy: None,
        }
    }

    pub(super) fn poor(name: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Poor,
            remedy: Some(remedy.into()),
            ..Self::good(name, text)
        }
    }

    pub(super) fn bad(name: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Invalid,
            ..Self::poor(name, text, remedy)
        }
    }
}
