//! How a run ends.

/// The end of a run that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reboot, and the user has asked to end the run at a reboot.
    Reboot,
    /// The guest's processor shut down (a triple fault), and the user has asked to end the run at a
    /// reboot.
    TripleFault,
    /// The user or a signal ended the run.
    Asked,
}

impl Exit {
    /// The name in an event.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reboot => "reboot",
            Self::TripleFault => "triple-fault",
            Self::Asked => "asked",
        }
    }

    /// The program's exit status: 3 after a triple fault, 0 otherwise.
    pub fn status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reboot | Self::Asked => 0,
            Self::TripleFault => 3,
        }
    }
}
