//! The address of a function: segment, bus, device, function (PCI Express 6.0, 2.2.4.2 and 7.2.2).

use std::fmt;
use std::str::FromStr;

/// segment:bus:device.function, written `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    /// Segment group, called domain by Linux.
    pub segment: u16,
    /// Bus in the segment.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

/// The reason why a text is not the address of a function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BdfError {
    /// The text is not of the form `[segment:]bus:device.function` in hexadecimal digits.
    #[error(
        "'{0}' is not a PCI address: expected bus:device.function in hexadecimal, \
         such as 01:00.0 or 0000:01:00.0"
    )]
    Malformed(String),
    /// A device number above 1f.
    #[error("'{0}' is not a PCI address: a device number is at most 1f")]
    Device(String),
    /// A function number above 7.
    #[error("'{0}' is not a PCI address: a function number is at most 7")]
    Function(String),
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            bus,
            device,
            function,
        } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// Serialized as text.
impl serde::Serialize for Bdf {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Bdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let malformed = || BdfError::Malformed(text.to_owned());
        let (address, function) = text.rsplit_once('.').ok_or_else(malformed)?;
        let (address, device) = address.rsplit_once(':').ok_or_else(malformed)?;
        let (segment, bus) = address.rsplit_once(':').unwrap_or(("0", address));

        let device = hex(device, 2).ok_or_else(malformed)?;
        let function = hex(function, 1).ok_or_else(malformed)?;
        if device > 0x1f {
            return Err(BdfError::Device(text.to_owned()));
        }
        if function > 7 {
            return Err(BdfError::Function(text.to_owned()));
        }
        let bus = hex(bus, 2).ok_or_else(malformed)?;
        Ok(Self {
            segment: hex(segment, 4).ok_or_else(malformed)?,
            bus: u8::try_from(bus).map_err(|_| malformed())?,
            device: u8::try_from(device).map_err(|_| malformed())?,
            function: u8::try_from(function).map_err(|_| malformed())?,
        })
    }
}

/// Parses one to `digits` hexadecimal digits. Unlike `from_str_radix`, does not allow a sign.
fn hex(text: &str, digits: usize) -> Option<u16> {
    let fits = (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_both_forms() {
        let short: Bdf = "01:1f.7".parse().unwrap();
        let long: Bdf = "0000:01:1f.7".parse().unwrap();
        assert_eq!(short, long);
        assert_eq!(short.to_string(), "0000:01:1f.7");
        let far: Bdf = "Abcd:FE:00.0".parse().unwrap();
        assert_eq!(far.to_string(), "abcd:fe:00.0");
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            ".",
            ":.",
            "01",
            "01:00",
            "00.0",
            "01:00.",
            "01:.0",
            ":00.0",
            "+1:00.0",
            "01:-1.0",
            "01:00.00",
            "101:00.0",
            "10000:01:00.0",
            "0:0000:01:00.0",
            "01:00.0 ",
            "g1:00.0",
            "01:00.0.0",
            "é1:00.0",
        ] {
            assert_eq!(
                text.parse::<Bdf>(),
                Err(BdfError::Malformed(text.into())),
                "{text}"
            );
        }
        assert_eq!(
            "01:20.0".parse::<Bdf>(),
            Err(BdfError::Device("01:20.0".into()))
        );
        assert_eq!(
            "01:00.8".parse::<Bdf>(),
            Err(BdfError::Function("01:00.8".into()))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(segment: u16, bus: u8, device in 0u8..32, function in 0u8..8) {
            let bdf = Bdf { segment, bus, device, function };
            prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,16}") {
            let _ = text.parse::<Bdf>();
        }
    }
}
