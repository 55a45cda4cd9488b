//! What any device is measured by, whatever it does: its guest's start, a reset of the function,
//! and a reboot of the guest.

use serde::{Deserialize, Serialize};

/// A time in the life of a guest that has the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// From the VMM's start to the guest's first instruction.
    First,
    /// From the VMM's start to /init.
    Init,
    /// From the VMM's start until the guest's driver is ready.
    Ready,
    /// A reset of the function.
    Reset,
    /// From the guest's call that reboots to its next /init.
    Reboot,
}

impl Moment {
    /// All, in the order of a guest's life.
    pub const ALL: [Self; 5] = [
        Self::First,
        Self::Init,
        Self::Ready,
        Self::Reset,
        Self::Reboot,
    ];

    /// A name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "start-first-instruction",
            Self::Init => "start-init",
            Self::Ready => "start-driver-ready",
            Self::Reset => "function-reset",
            Self::Reboot => "guest-reboot",
        }
    }

    /// The moment with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|moment| moment.name() == name)
    }

    /// The moment in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::First => "start to the first instruction",
            Self::Init => "start to /init",
            Self::Ready => "start to the driver's being ready",
            Self::Reset => "reset of the function",
            Self::Reboot => "reboot of the guest",
        }
    }
}

/// The times of a turn in microseconds; what was not measured is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// [`Moment::First`].
    pub first_us: Option<f64>,
    /// [`Moment::Init`].
    pub init_us: Option<f64>,
    /// [`Moment::Ready`].
    pub ready_us: Option<f64>,
    /// [`Moment::Reset`].
    pub reset_us: Option<f64>,
    /// [`Moment::Reboot`].
    pub reboot_us: Option<f64>,
    /// Why there is no time of a reset, where one was tried.
    pub no_reset: Option<String>,
}

impl Moments {
    /// The time of a moment.
    pub fn of(&self, moment: Moment) -> Option<f64> {
        match moment {
            Moment::First => self.first_us,
            Moment::Init => self.init_us,
            Moment::Ready => self.ready_us,
            Moment::Reset => self.reset_us,
            Moment::Reboot => self.reboot_us,
        }
    }

    /// Adds what another start of the same turn has given. What is known stays.
    pub fn add(&mut self, other: Self) {
        self.first_us = self.first_us.or(other.first_us);
        self.init_us = self.init_us.or(other.init_us);
        self.ready_us = self.ready_us.or(other.ready_us);
        self.reset_us = self.reset_us.or(other.reset_us);
        self.reboot_us = self.reboot_us.or(other.reboot_us);
        self.no_reset = self.no_reset.take().or(other.no_reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_moment_has_a_name_and_a_time_of_its_own() {
        let moments = Moments {
            first_us: Some(1.0),
            init_us: Some(2.0),
            ready_us: Some(3.0),
            reset_us: Some(4.0),
            reboot_us: Some(5.0),
            no_reset: None,
        };
        for (moment, wanted) in Moment::ALL.into_iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
            assert_eq!(Moment::named(moment.name()), Some(moment));
            assert_eq!(moments.of(moment), Some(wanted));
        }
        assert_eq!(Moment::named("read-4k-d1"), None);
    }

    #[test]
    fn the_first_start_of_a_turn_counts() {
        let mut moments = Moments {
            init_us: Some(2.0),
            ..Moments::default()
        };
        moments.add(Moments {
            first_us: Some(1.0),
            init_us: Some(20.0),
            no_reset: Some("none".into()),
            ..Moments::default()
        });
        assert_eq!(moments.first_us, Some(1.0));
        assert_eq!(moments.init_us, Some(2.0));
        assert_eq!(moments.no_reset.as_deref(), Some("none"));
    }
}
