//! The `format` file of an event, and the records that it describes.

use std::collections::BTreeMap;

use crate::decode::value::{Field, Value};

/// The most fields, and named values, that are read of a format.
const MOST: usize = 256;
/// Names of fields that all records have begin so.
const COMMON: &str = "common_";
/// Parts of the names of fields that read best in hexadecimal.
const HEXADECIMAL: [&str; 9] = [
    "addr", "rip", "iova", "paddr", "data", "info", "code", "size", "requests",
];

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: String,
    offset: usize,
    size: usize,
    signed: bool,
    /// The bytes are elsewhere in the record: the low half of the field says where, the high half
    /// how many (`__data_loc`).
    elsewhere: bool,
    array: bool,
}

/// A format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// The number that records of the event begin with.
    pub id: u16,
    parts: Vec<Part>,
    /// The lists of `__print_symbolic`, with the expression that each is of.
    symbols: Vec<(String, BTreeMap<u64, String>)>,
}

impl Format {
    /// Reads a format. `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut format = Self::default();
        let mut id = None;
        for line in text.lines() {
            let line = line.trim();
            if let Some(number) = line.strip_prefix("ID:") {
                id = number.trim().parse().ok();
            } else if line.starts_with("field:") && format.parts.len() < MOST {
                format.parts.extend(part(line));
            } else if let Some(print) = line.strip_prefix("print fmt:") {
                format.symbols = symbols(print);
            }
        }
        format.id = id?;
        (!format.parts.is_empty()).then_some(format)
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.part(name).is_some()
    }

    fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// A number in a record.
    pub fn number(&self, record: &[u8], name: &str) -> Option<u64> {
        number(self.part(name)?, record)
    }

    /// The fields of a record that are the event's own.
    pub fn fields(&self, record: &[u8]) -> Vec<Field> {
        let own = self
            .parts
            .iter()
            .filter(|part| !part.name.starts_with(COMMON));
        let fields = own.filter_map(|part| {
            Some(Field {
                name: part.name.clone().into(),
                value: value(part, record)?,
            })
        });
        fields.collect()
    }

    /// The kernel's name of an exit's reason: `isa` is 1 for VMX, whose list is the first.
    pub fn reason(&self, record: &[u8]) -> Option<&str> {
        let reason = self.number(record, "exit_reason")?;
        let isa = self.number(record, "isa")?;
        let mut lists = self
            .symbols
            .iter()
            .filter(|(of, _)| of.contains("exit_reason"));
        let (_, list) = match isa {
            1 => lists.next()?,
            _ => lists.nth(1)?,
        };
        let reason = if isa == 1 { reason & 0xffff } else { reason };
        list.get(&reason).map(String::as_str)
    }
}

/// A line as `field:unsigned int vector; offset:8; size:4; signed:0;`.
fn part(line: &str) -> Option<Part> {
    let mut words = line.split(';').map(str::trim);
    let declaration = words.next()?.strip_prefix("field:")?;
    let mut values = BTreeMap::new();
    for word in words {
        if let Some((name, value)) = word.split_once(':') {
            values.insert(name.trim(), value.trim().parse::<usize>().ok()?);
        }
    }
    let (base, bracket) = match declaration.split_once('[') {
        Some((base, rest)) => (base.trim(), Some(rest)),
        None => (declaration, None),
    };
    let elsewhere = declaration.starts_with("__data_loc");
    // `__data_loc char[] name` has its name behind the bracket.
    let named = match bracket {
        Some(rest) if elsewhere => rest.rsplit(']').next()?,
        _ => base,
    };
    let name = named.split_whitespace().next_back()?;
    Some(Part {
        name: name.trim_start_matches('*').into(),
        offset: *values.get("offset")?,
        size: *values.get("size")?,
        signed: values.get("signed").is_some_and(|signed| *signed != 0),
        elsewhere,
        array: bracket.is_some() && !elsewhere,
    })
}

fn bytes<'a>(part: &Part, record: &'a [u8]) -> Option<&'a [u8]> {
    record.get(part.offset..part.offset.checked_add(part.size)?)
}

fn number(part: &Part, record: &[u8]) -> Option<u64> {
    let bytes = bytes(part, record)?;
    let mut value = [0; 8];
    value.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let negative = part.signed && bytes.last().is_some_and(|last| last & 0x80 != 0);
    if negative {
        value[bytes.len()..].fill(0xff);
    }
    Some(u64::from_le_bytes(value))
}

fn value(part: &Part, record: &[u8]) -> Option<Value> {
    if part.elsewhere {
        let at = number(part, record)?;
        let (offset, len) = ((at & 0xffff) as usize, (at >> 16 & 0xffff) as usize);
        let text = record.get(offset..offset + len)?;
        let text = text.split(|byte| *byte == 0).next()?;
        return Some(Value::Text(text.escape_ascii().to_string()));
    }
    if part.array || !matches!(part.size, 1 | 2 | 4 | 8) {
        return Some(Value::Bytes(bytes(part, record)?.to_vec()));
    }
    let number = number(part, record)?;
    let hexadecimal = HEXADECIMAL.iter().any(|word| part.name.contains(word));
    Some(match (hexadecimal, part.signed) {
        (true, _) => Value::Hex(number, part.size as u8),
        (_, true) => Value::Signed(number as i64),
        _ => Value::Decimal(number),
    })
}

/// The lists of `__print_symbolic(EXPRESSION, { 0, "NAME" }, …)`.
fn symbols(print: &str) -> Vec<(String, BTreeMap<u64, String>)> {
    let lists = print.split("__print_symbolic(").skip(1).take(MOST);
    let lists = lists.filter_map(|list| {
        let (of, list) = list.split_once(',')?;
        let mut values = BTreeMap::new();
        for item in list.split('{').skip(1).take(MOST) {
            let (item, rest) = item.split_once('}')?;
            if let Some((number, name)) = item.split_once(',') {
                let number = number.trim();
                let number = match number.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                let name = name.trim().trim_matches('"');
                if let Ok(number) = number {
                    values.insert(number, name.to_string());
                }
            }
            if !rest.trim_start().starts_with(',') {
                break;
            }
        }
        Some((of.trim().to_string(), values))
    });
    lists.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXIT: &str = "\
name: kvm_exit
ID: 103
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;
\tfield:unsigned long guest_rip;\toffset:16;\tsize:8;\tsigned:0;
\tfield:u32 isa;\toffset:24;\tsize:4;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:28;\tsize:4;\tsigned:0;
\tfield:unsigned long args[2];\toffset:32;\tsize:16;\tsigned:0;

print fmt: \"%s\", (REC->isa == 1) ? __print_symbolic(REC->exit_reason & 0xffff, { 0, \"NMI\" }, \
{ 12, \"HLT\" }) : __print_symbolic(REC->exit_reason, { 0x078, \"hlt\" }), REC->guest_rip
";

    fn record(reason: u32, isa: u32) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[4..8].copy_from_slice(&(-7i32).to_le_bytes());
        record[8..12].copy_from_slice(&reason.to_le_bytes());
        record[24..28].copy_from_slice(&isa.to_le_bytes());
        record[28..32].copy_from_slice(&(5 << 16 | 48u32).to_le_bytes());
        record.extend(b"edu\n\0");
        record
    }

    #[test]
    fn records_are_read_by_their_format() {
        let format = Format::parse(EXIT).unwrap();
        assert_eq!(format.id, 103);
        assert!(format.has("isa") && !format.has("requests"));
        let record = record(0x78, 2);
        assert_eq!(format.number(&record, "common_pid"), Some(-7i64 as u64));
        assert_eq!(format.reason(&record), Some("hlt"));
        assert_eq!(format.reason(&self::record(0x8000_000c, 1)), Some("HLT"));
        assert_eq!(format.reason(&self::record(5, 1)), None);
        let fields = format.fields(&record);
        let names: Vec<_> = fields.iter().map(|field| &*field.name).collect();
        assert_eq!(names, ["exit_reason", "guest_rip", "isa", "name", "args"]);
        assert_eq!(fields[3].value, Value::Text("edu\\n".into()));
        assert_eq!(fields[1].value, Value::Hex(0, 8));
    }

    /// A tree that lies.
    #[test]
    fn formats_and_records_that_lie_do_no_harm() {
        for text in [
            "",
            "ID: x",
            "ID: 1",
            "ID: 70000\nfield:int a; offset:0; size:4;",
        ] {
            assert_eq!(Format::parse(text), None, "{text:?}");
        }
        let huge = format!(
            "ID: 1\nfield:int a; offset:{0}; size:{0}; signed:1;",
            usize::MAX
        );
        let format = Format::parse(&huge).unwrap();
        assert_eq!(format.number(&[0; 8], "a"), None);
        assert!(format.fields(&[0; 8]).is_empty());
        let none = "ID: 1\nfield:int a; offset:0; size:0; signed:1;";
        assert_eq!(Format::parse(none).unwrap().number(&[1], "a"), Some(0));
        let far = "ID: 1\nfield:__data_loc char[] a; offset:0; size:4; signed:0;";
        assert!(Format::parse(far).unwrap().fields(&[0xff; 8]).is_empty());
    }

    proptest! {
        #[test]
        fn no_format_and_no_record_panics(text in ".{0,200}", record: Vec<u8>, cut in 0..600usize) {
            let cut = EXIT.char_indices().nth(cut).map_or(EXIT.len(), |(at, _)| at);
            for text in [format!("{}{text}", &EXIT[..cut]), text] {
                if let Some(format) = Format::parse(&text) {
                    format.fields(&record);
                    format.reason(&record);
                }
            }
        }
    }
}
