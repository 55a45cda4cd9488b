//! The table that is written from the kernel's headers: table/headers.txt.

use std::collections::HashMap;

const TEXT: &str = include_str!("table/headers.txt");

/// What the headers say.
#[derive(Debug, Default)]
pub struct Headers {
    /// The version of the kernel.
    pub version: &'static str,
    /// Name, number and argument type (`-` for none) of each call.
    pub calls: Vec<(&'static str, u32, &'static str)>,
    /// Constants in the headers' order.
    pub constants: Vec<(&'static str, u64)>,
    /// Constants by their enumeration.
    pub enums: HashMap<&'static str, Vec<(&'static str, u64)>>,
    /// Structures and unions.
    pub types: HashMap<&'static str, Type>,
}

/// A structure or a union.
#[derive(Debug)]
pub struct Type {
    /// Its size without arrays of open length.
    pub size: usize,
    /// Whether all fields have the same offset.
    pub union: bool,
    /// Its fields.
    pub fields: Vec<Member>,
}

/// A field of a structure.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name.
    pub name: &'static str,
    /// The offset in bytes.
    pub offset: usize,
    /// The type of an element.
    pub base: Base,
    /// How many elements the array has in all; `None` for a field that is no array.
    pub elements: Option<usize>,
    /// Whether the structure says the array's length.
    pub open: bool,
    /// Width and first bit of a bit field.
    pub bits: Option<(u32, u32)>,
}

/// A type without arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// An unsigned number of so many bytes.
    Unsigned(u8),
    /// A signed number of so many bytes.
    Signed(u8),
    /// A character.
    Character,
    /// A pointer.
    Pointer,
    /// A structure or a union.
    Record(&'static str),
}

impl Base {
    /// The type with this name in the table.
    pub fn of(name: &'static str) -> Self {
        match name {
            "u8" => Self::Unsigned(1),
            "u16" => Self::Unsigned(2),
            "u32" => Self::Unsigned(4),
            "u64" => Self::Unsigned(8),
            "s8" => Self::Signed(1),
            "s16" => Self::Signed(2),
            "s32" => Self::Signed(4),
            "s64" => Self::Signed(8),
            "char" => Self::Character,
            "ptr" => Self::Pointer,
            record => Self::Record(record),
        }
    }
}

impl Headers {
    /// Reads the table.
    ///
    /// # Errors
    /// A line is not understood.
    pub fn read() -> Result<Self, String> {
        let mut headers = Self::default();
        // The enumeration or structure that the lines with a tab belong to.
        let (mut group, mut record) = ("", "");
        for line in TEXT.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            headers
                .line(line, &mut group, &mut record)
                .ok_or_else(|| format!("headers.txt: {line}"))?;
        }
        Ok(headers)
    }

    fn line(
        &mut self,
        line: &'static str,
        group: &mut &'static str,
        record: &mut &'static str,
    ) -> Option<()> {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        if line.starts_with('\t') {
            match words[..] {
                [name, value] => {
                    let constant = (name, number(value)?);
                    self.constants.push(constant);
                    self.enums.get_mut(group)?.push(constant);
                }
                [name, offset, shape] => {
                    let member = member(name, offset.parse().ok()?, shape)?;
                    self.types.get_mut(record)?.fields.push(member);
                }
                _ => return None,
            }
            return Some(());
        }
        match words[..] {
            ["linux", version] => self.version = version,
            ["call", name, value, argument] => {
                let value = u32::try_from(number(value)?).ok()?;
                self.calls.push((name, value, argument));
            }
            ["const", name, value] => self.constants.push((name, number(value)?)),
            ["enum", name] => {
                *group = name;
                self.enums.insert(name, Vec::new());
            }
            [kind @ ("struct" | "union"), name, size] => {
                *record = name;
                let new = Type {
                    size: size.parse().ok()?,
                    union: kind == "union",
                    fields: Vec::new(),
                };
                self.types.insert(name, new);
            }
            _ => return None,
        }
        Some(())
    }

    /// The size of a type.
    pub fn size(&self, base: Base) -> Option<usize> {
        match base {
            Base::Unsigned(size) | Base::Signed(size) => Some(usize::from(size)),
            Base::Character => Some(1),
            Base::Pointer => Some(8),
            Base::Record(name) => Some(self.types.get(plain(name))?.size),
        }
    }
}

/// The name of a type without its view.
pub fn plain(name: &str) -> &str {
    name.split_once('/').map_or(name, |(plain, _)| plain)
}

/// A number in C's form.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn member(name: &'static str, offset: usize, shape: &'static str) -> Option<Member> {
    let (shape, bits) = match shape.split_once(':') {
        Some((shape, bits)) => {
            let (width, first) = bits.split_once('+')?;
            (shape, Some((width.parse().ok()?, first.parse().ok()?)))
        }
        None => (shape, None),
    };
    let end = shape.find('[').unwrap_or(shape.len());
    let mut elements = None;
    let mut open = false;
    for length in shape[end..].split(['[', ']']).skip(1).step_by(2) {
        open |= length.is_empty();
        let length: usize = if length.is_empty() {
            0
        } else {
            length.parse().ok()?
        };
        elements = Some(elements.unwrap_or(1) * length);
    }
    Some(Member {
        name,
        offset,
        base: Base::of(&shape[..end]),
        elements,
        open,
        bits,
    })
}
