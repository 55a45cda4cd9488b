//! The link between a port and the function behind it: speed and width, and the registers that show
//! them (PCI Express 6.0, 7.5.3.6 to 7.5.3.8 and 7.5.3.18 to 7.5.3.20).

use std::fmt;

/// A link's speed, by its code in the registers: 1 is 2.5 GT/s, and 7 is 128 GT/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speed(u8);

/// Gigatransfers a second of the codes from 1 on.
const RATES: [&str; 7] = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0", "128.0"];

impl Speed {
    /// 2.5 GT/s, which every link has.
    pub const SLOWEST: Self = Self(1);

    /// The speed with this code; `None` if there is none.
    pub fn from_code(code: u8) -> Option<Self> {
        (1..=RATES.len())
            .contains(&code.into())
            .then_some(Self(code))
    }

    /// Reads a number of gigatransfers a second: `2.5`, `8` or `8.0`.
    pub fn from_rate(text: &str) -> Option<Self> {
        let same = |rate: &str| rate == text || rate.strip_suffix(".0") == Some(text);
        let index = RATES.iter().position(|rate| same(rate))?;
        Self::from_code(u8::try_from(index + 1).ok()?)
    }

    /// The code in Link Capabilities, Link Status and Link Control 2.
    pub fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = RATES.get(usize::from(self.0).saturating_sub(1));
        write!(f, "{} GT/s", rate.unwrap_or(&"?"))
    }
}

/// A link: what it has now, and what both its ends can at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    speed: Speed,
    /// x1, x2, x4, x8, x12, x16 or x32.
    width: u8,
    max_speed: Speed,
    max_width: u8,
}

/// The widths that a link can have (7.5.3.6).
const WIDTHS: [u8; 7] = [1, 2, 4, 8, 12, 16, 32];

impl Link {
    /// 2.5 GT/s x1.
    pub const SLOWEST: Self = Self {
        speed: Speed::SLOWEST,
        width: 1,
        max_speed: Speed::SLOWEST,
        max_width: 1,
    };

    /// A link with this speed and width. A maximum below what the link has now is raised; one that
    /// is not known is what the link has now. `None` if no link has that width.
    pub fn new(speed: Speed, width: u8, max: Option<(Speed, u8)>) -> Option<Self> {
        if !WIDTHS.contains(&width) {
            return None;
        }
        let (max_speed, max_width) = max.unwrap_or((speed, width));
        let max_width = match WIDTHS.contains(&max_width) {
            true => max_width.max(width),
            false => width,
        };
        Some(Self {
            speed,
            width,
            max_speed: max_speed.max(speed),
            max_width,
        })
    }

    /// Reads Link Capabilities and Link Status; `None` if they tell of no link, as those of an
    /// integrated endpoint and of many virtual functions.
    pub fn from_registers(capabilities: u32, status: u16) -> Option<Self> {
        let [low, high, ..] = capabilities.to_le_bytes();
        let max_width = low >> 4 | (high & 3) << 4;
        let max = Speed::from_code(low & 0xf).map(|speed| (speed, max_width));
        let [low, high] = status.to_le_bytes();
        let width = low >> 4 | (high & 3) << 4;
        Self::new(Speed::from_code(low & 0xf)?, width, max)
    }

    /// The link when it has the speed and the width of `now`, as far as it can have them.
    pub fn at(&self, now: &Self) -> Self {
        Self {
            speed: now.speed.min(self.max_speed),
            width: now.width.min(self.max_width),
            ..*self
        }
    }

    /// The speed now.
    pub fn speed(&self) -> Speed {
        self.speed
    }

    /// The width now.
    pub fn width(&self) -> u8 {
        self.width
    }

    /// Link Capabilities: the highest speed, and the largest width.
    pub fn capabilities(&self) -> u32 {
        u32::from(self.max_speed.code()) | u32::from(self.max_width) << 4
    }

    /// Link Status: the speed and the width now.
    pub fn status(&self) -> u16 {
        u16::from(self.speed.code()) | u16::from(self.width) << 4
    }

    /// Link Capabilities 2: the vector of supported speeds, with all up to the highest.
    pub fn capabilities_2(&self) -> u32 {
        // Bit 0 is reserved, and bit 1 is the speed of code 1.
        (2 << self.max_speed.code()) - 2
    }

    /// Link Control 2 after a reset: the target is the highest speed.
    pub fn control_2(&self) -> u16 {
        self.max_speed.code().into()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x{}", self.speed, self.width)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn speed(rate: &str) -> Speed {
        Speed::from_rate(rate).unwrap()
    }

    #[test]
    fn speeds_by_rate_and_by_code() {
        for (text, code) in [
            ("2.5", 1),
            ("5", 2),
            ("5.0", 2),
            ("8.0", 3),
            ("16", 4),
            ("128.0", 7),
        ] {
            assert_eq!(speed(text).code(), code, "{text}");
        }
        for text in ["", "0", "2", "25", "2.50", "Unknown", "8.00", "-8"] {
            assert_eq!(Speed::from_rate(text), None, "{text}");
        }
        assert_eq!((Speed::from_code(0), Speed::from_code(8)), (None, None));
        assert_eq!(speed("64").to_string(), "64.0 GT/s");
    }

    #[test]
    fn registers_of_a_link() {
        // An x16 card of 16 GT/s that runs at 8 GT/s x8.
        let link = Link::new(speed("8"), 8, Some((speed("16"), 16))).unwrap();
        assert_eq!(link.capabilities(), 0x104);
        assert_eq!(link.status(), 0x83);
        assert_eq!((link.capabilities_2(), link.control_2()), (0b1_1110, 4));
        assert_eq!(link.to_string(), "8.0 GT/s x8");
        // The other bits of the registers tell of other things.
        assert_eq!(Link::from_registers(0xfffe_fd04, 0xfc83), Some(link));
        assert_eq!(Link::SLOWEST.capabilities(), 0x11);
        // The host lets it rest, and a link is never better than it can be.
        let resting = Link::new(Speed::SLOWEST, 8, None).unwrap();
        assert_eq!(link.at(&resting).to_string(), "2.5 GT/s x8");
        assert_eq!(link.at(&resting).capabilities(), 0x104);
        assert_eq!(Link::SLOWEST.at(&link), Link::SLOWEST);
        assert_eq!(Link::SLOWEST.capabilities_2(), 2);
    }

    #[test]
    fn no_link_has_no_speed_or_no_width() {
        assert_eq!(Link::from_registers(0x104, 0), None);
        assert_eq!(Link::from_registers(0x104, 0x03), None);
        assert_eq!(Link::from_registers(0x104, 0x80), None);
        assert_eq!(Link::from_registers(0x104, 0x33), None, "x3");
        assert_eq!(Link::from_registers(!0, !0), None);
        // Nonsense about the maximum is what there is now.
        let link = Link::from_registers(0, 0x83).unwrap();
        assert_eq!(link.capabilities(), 0x83);
        assert_eq!(
            Link::from_registers(0x31, 0x83).unwrap().capabilities(),
            0x83
        );
    }

    proptest! {
        #[test]
        fn a_link_is_in_its_limits(capabilities: u32, status: u16) {
            if let Some(link) = Link::from_registers(capabilities, status) {
                prop_assert_eq!(link.status(), status & 0x3ff);
                prop_assert!(link.capabilities() & 0xf >= u32::from(link.status() & 0xf));
                prop_assert!(link.capabilities() >> 4 >= u32::from(link.status() >> 4));
                prop_assert!(link.capabilities_2() & 1 << link.speed().code() != 0);
                let again = Link::from_registers(link.capabilities(), link.status());
                prop_assert_eq!(again, Some(link));
            }
        }
    }
}
