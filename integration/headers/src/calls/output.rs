//! What the C program prints.

use std::collections::HashMap;

use trace::decode::value::{Kind, Memory};

/// What the program says of one call.
#[derive(Debug)]
pub struct Case {
    /// The name.
    pub name: String,
    /// The kind of file.
    pub kind: Kind,
    /// The number by the C compiler.
    pub number: u32,
    /// The argument.
    pub argument: u64,
    /// The values to be found.
    pub expected: Vec<Expected>,
    /// The names to be found, by path.
    pub names: Vec<(String, Vec<String>)>,
    /// The program's memory.
    pub memory: Blocks,
    /// What was seen of the call, if it was made. `expected` is then what was there afterwards.
    pub made: Option<Made>,
}

/// A call that was made.
#[derive(Debug)]
pub struct Made {
    /// Its result, or the negated errno.
    pub result: i64,
    /// The values before the call.
    pub before: Vec<Expected>,
}

/// A value to be found.
#[derive(Debug)]
pub struct Expected {
    /// The names and indexes to the field.
    pub path: String,
    /// Its size in bytes; 0 for a bit field.
    pub size: usize,
    /// The value.
    pub value: u64,
}

/// The program's blocks of memory by their address.
#[derive(Debug, Default)]
pub struct Blocks(HashMap<u64, Vec<u8>>);

/// The size of a block.
const BLOCK: u64 = 16_384;

impl Memory for Blocks {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let found = self
            .0
            .iter()
            .find(|(start, _)| (**start..**start + BLOCK).contains(&address));
        let Some((start, bytes)) = found else {
            return 0;
        };
        let offset = (address - start) as usize;
        let size = into.len().min(BLOCK as usize - offset);
        for (index, byte) in into[..size].iter_mut().enumerate() {
            *byte = bytes.get(offset + index).copied().unwrap_or(0);
        }
        size
    }
}

/// Reads what the program printed.
///
/// # Errors
/// A line is not the program's.
pub fn read(output: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let known = match words[..] {
            ["case", name, kind, number] => {
                let case = case(name, kind, number);
                case.map(|case| cases.push(case))
            }
            _ => cases.last_mut().and_then(|case| belongs(case, &words)),
        };
        known.ok_or_else(|| format!("the program printed: {line}"))?;
    }
    Ok(cases)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn case(name: &str, kind: &str, number: &str) -> Option<Case> {
    let mut kinds = trace::decode::calls::all().map(|(kind, ..)| kind);
    Some(Case {
        name: name.to_owned(),
        kind: kinds.find(|own| format!("{own:?}") == kind)?,
        number: u32::try_from(hex(number)?).ok()?,
        argument: 0,
        expected: Vec::new(),
        names: Vec::new(),
        memory: Blocks::default(),
        made: None,
    })
}

/// A line that belongs to a case.
fn belongs(case: &mut Case, words: &[&str]) -> Option<()> {
    match *words {
        ["argument", value] => case.argument = hex(value)?,
        ["expect", path, size, value] => case.expected.push(Expected {
            path: path.to_owned(),
            size: size.parse().ok()?,
            value: hex(value)?,
        }),
        // The call was not made.
        ["skip"] => case.made = None,
        // What follows is after the call.
        ["result", result] => {
            case.made = Some(Made {
                result: result.parse().ok()?,
                before: std::mem::take(&mut case.expected),
            });
        }
        ["names", path, names] => {
            let names = names.split('|').map(str::to_owned).collect();
            case.names.push((path.to_owned(), names));
        }
        ["block", address, bytes] => {
            let digits = bytes.strip_suffix('.')?.as_bytes().chunks(2);
            let bytes = digits
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect::<Option<Vec<u8>>>()?;
            case.memory.0.insert(hex(address)?, bytes);
        }
        _ => return None,
    }
    Some(())
}
