//! Numbers in the program's memory.

use super::form::Form;
use super::headers::Base;
use super::value::Value;

/// A number.
#[derive(Clone, Copy, Debug)]
pub struct Scalar {
    /// Its bits.
    pub raw: u64,
    /// Its size in bytes.
    pub size: u8,
    signed: bool,
    pointer: bool,
}

impl Scalar {
    /// A number without a sign.
    pub fn unsigned(raw: u64, size: u8) -> Self {
        Self {
            raw,
            size,
            signed: false,
            pointer: false,
        }
    }

    /// Reads a number from the start of `bytes`; `None` if there are too few, or the type is no
    /// number.
    pub fn read(base: Base, bytes: &[u8]) -> Option<Self> {
        let size = match base {
            Base::Unsigned(size) | Base::Signed(size) => size,
            Base::Character => 1,
            Base::Pointer => 8,
            Base::Record(_) => return None,
        };
        let mut raw = [0; 8];
        raw[..usize::from(size)].copy_from_slice(bytes.get(..usize::from(size))?);
        Some(Self {
            raw: u64::from_ne_bytes(raw),
            size,
            signed: matches!(base, Base::Signed(_)),
            pointer: base == Base::Pointer,
        })
    }

    /// The bits of a bit field.
    pub fn bits(self, bits: Option<(u32, u32)>) -> Self {
        match bits {
            Some((width, first)) => Self {
                raw: (self.raw >> first.min(63)) & !u64::MAX.checked_shl(width).unwrap_or(0),
                ..self
            },
            None => self,
        }
    }

    fn extended(self) -> i64 {
        let unused = 64 - 8 * u32::from(self.size.clamp(1, 8));
        ((self.raw << unused) as i64) >> unused
    }
}

/// The value of a number in a form. A form that is for more than a number counts as plain.
pub fn value(scalar: Scalar, form: &Form) -> Value {
    let low = scalar.raw as u32;
    match form {
        Form::Decimal if scalar.signed => Value::Signed(scalar.extended()),
        Form::Decimal => Value::Decimal(scalar.raw),
        Form::Signed => Value::Signed(scalar.extended()),
        Form::Hex => Value::Hex(scalar.raw, scalar.size),
        Form::Pointer => Value::Pointer(scalar.raw),
        Form::Descriptor => Value::Descriptor(low as i32),
        Form::Object => Value::Object(low),
        Form::Enum(names) => named(scalar, names),
        Form::Flags(bits, mask, numbers) => flags(scalar.raw, bits, *mask, numbers),
        _ if scalar.pointer => Value::Pointer(scalar.raw),
        _ if scalar.signed => Value::Signed(scalar.extended()),
        _ => Value::Hex(scalar.raw, scalar.size),
    }
}

/// A number by its name, or in hexadecimal if it has none.
pub fn named(scalar: Scalar, names: &[(u64, &'static str)]) -> Value {
    match names.iter().find(|(value, _)| *value == scalar.raw) {
        Some((value, name)) => Value::Name(*value, name),
        None => Value::Hex(scalar.raw, scalar.size),
    }
}

fn flags(
    raw: u64,
    bits: &[(u64, &'static str)],
    mask: u64,
    numbers: &[(u64, &'static str)],
) -> Value {
    let mut names = Vec::new();
    let mut rest = raw;
    for (bit, name) in bits {
        if rest & bit != 0 {
            names.push(*name);
            rest &= !bit;
        }
    }
    let number = numbers.iter().find(|(value, _)| *value == raw & mask);
    if let (Some((_, name)), true) = (number, mask != 0) {
        names.push(*name);
        rest &= !mask;
    }
    Value::Flags { raw, names, rest }
}
