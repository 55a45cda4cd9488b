//! The resets of the made-up device: which it has, and whether they work.

/// The outcome of a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    #[default]
    Works,
    Fails,
    Absent,
    /// The reset succeeds, and the device has lost its power afterwards.
    Kills,
}

impl Outcome {
    /// The error number of a reset that does not work.
    pub fn check(self) -> Result<(), i32> {
        match self {
            Self::Works | Self::Kills => Ok(()),
            Self::Fails => Err(libc::EAGAIN),
            Self::Absent => Err(libc::ENOTTY),
        }
    }
}

/// How a device can be reset.
#[derive(Clone, Copy, Default)]
pub struct Resets {
    pub own: Outcome,
    /// Whether its own reset is D3hot and back.
    pub by_power: bool,
    pub hot: Outcome,
    /// Devices that a hot reset resets; empty where the bus has no hot reset.
    pub bus: &'static [&'static str],
}

impl Resets {
    pub const NONE: Self = Self {
        own: Outcome::Absent,
        by_power: false,
        hot: Outcome::Absent,
        bus: &[],
    };

    pub fn scope(&self) -> Result<Vec<String>, i32> {
        if self.bus.is_empty() {
            return Err(libc::ENODEV);
        }
        Ok(self.bus.iter().map(|name| name.to_string()).collect())
    }
}
