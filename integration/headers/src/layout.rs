//! Where the members of a structure are, by the ABI of x86-64.

use std::collections::HashMap;

use crate::declared::{Base, Kind, Member, Types};

/// The layout of a record.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The size in bytes.
    pub size: u64,
    /// The alignment in bytes.
    pub align: u64,
    /// The members. Those of a member without a name are there as the record's own.
    pub fields: Vec<Field>,
}

/// A member with its offset.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name.
    pub name: String,
    /// The offset in bytes.
    pub offset: u64,
    /// The type of an element, by the table's name.
    pub base: String,
    /// The lengths of the array's dimensions.
    pub lengths: Vec<Option<u64>>,
    /// First bit and width of a bit field.
    pub bits: Option<(u64, u64)>,
}

/// The layouts of all records.
pub fn of(types: &Types) -> Result<HashMap<&str, Layout>, String> {
    let mut known: HashMap<&str, Layout> = HashMap::new();
    // C needs a type before its use.
    for record in &types.records {
        let mut layout = Layout {
            align: 1,
            ..Layout::default()
        };
        // The next free bit.
        let mut free = 0_u64;
        for member in &record.members {
            let start = if record.kind == Kind::Union { 0 } else { free };
            let end = lay_out(member, start, &known, &mut layout)
                .map_err(|error| format!("{}: {error}", record.name))?;
            free = free.max(end);
        }
        layout.size = free.div_ceil(8).next_multiple_of(layout.align);
        known.insert(&record.name, layout);
    }
    Ok(known)
}

/// Puts a member at or after bit `start`, and returns the first bit after the member.
fn lay_out(
    member: &Member,
    start: u64,
    known: &HashMap<&str, Layout>,
    layout: &mut Layout,
) -> Result<u64, String> {
    let (base, size, align) = match &member.base {
        Base::Number(name, size) => ((*name).to_owned(), *size, *size),
        Base::Record(name) => {
            let inner = known
                .get(name.as_str())
                .ok_or_else(|| format!("the type {name} is not known"))?;
            (name.clone(), inner.size, inner.align)
        }
    };
    layout.align = layout.align.max(align);
    if let Some(width) = member.bits {
        // A bit field does not cross the border of its type.
        let unit = size * 8;
        let first = if start % unit + width > unit {
            start.next_multiple_of(unit)
        } else {
            start
        };
        layout.fields.push(Field {
            name: member.name.clone().unwrap_or_default(),
            offset: first / unit * size,
            base,
            lengths: Vec::new(),
            bits: Some((first % unit, width)),
        });
        return Ok(first + width);
    }
    let offset = start.div_ceil(8).next_multiple_of(align);
    let count: u64 = member
        .lengths
        .iter()
        .map(|length| length.unwrap_or(0))
        .product();
    match (&member.name, &member.base) {
        (None, Base::Record(name)) => {
            let inner = known[name.as_str()].fields.clone();
            layout.fields.extend(inner.into_iter().map(|field| Field {
                offset: field.offset + offset,
                ..field
            }));
        }
        (name, _) => layout.fields.push(Field {
            name: name.clone().unwrap_or_default(),
            offset,
            base,
            lengths: member.lengths.clone(),
            bits: None,
        }),
    }
    Ok((offset + size * count) * 8)
}
