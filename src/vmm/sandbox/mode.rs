//! The modes of the sandbox.

use std::sync::OnceLock;

/// What the sandbox does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    #[default]
    Off,
    /// Confines each thread. A call that its list does not have ends the run.
    On,
    /// Says each call that a list does not have, and makes it. Nothing else is confined.
    Log,
}

/// What the user has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Nothing: the sandbox is on as far as the kernel can.
    #[default]
    Default,
    /// A mode, which the kernel must have.
    Given(Mode),
}

impl Choice {
    /// The mode that is wanted.
    pub fn wanted(self) -> Mode {
        match self {
            Self::Default => DEFAULT,
            Self::Given(mode) => mode,
        }
    }
}

/// The mode of a run whose user has chosen none.
const DEFAULT: Mode = Mode::On;

/// The mode of this process, once [`super::begin`] was called.
static MODE: OnceLock<Mode> = OnceLock::new();

impl Mode {
    /// The mode of this process.
    pub fn current() -> Self {
        MODE.get().copied().unwrap_or_default()
    }

    /// Sets the mode of this process. The first call counts.
    pub(super) fn set(self) {
        let _ = MODE.set(self);
    }

    /// The mode with this name.
    pub fn named(name: &str) -> Option<Self> {
        let mut modes = [Self::Off, Self::On, Self::Log].into_iter();
        modes.find(|mode| mode.name() == name)
    }

    /// The name, as `--sandbox` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Log => "log",
        }
    }
}
