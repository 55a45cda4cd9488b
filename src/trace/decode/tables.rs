//! All tables, read once.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::form::{Form, Names, Rule};
use super::form_text::{Extra, Source};
use super::headers::{Headers, number, plain};
use super::value::Kind;

const CALLS: &str = include_str!("table/calls.txt");
const FIELDS: &str = include_str!("table/fields.txt");
const MSRS: &str = include_str!("table/msrs.txt");
const CPUID: &str = include_str!("table/cpuid.txt");

/// The tables.
#[derive(Debug, Default)]
pub struct Tables {
    /// The headers.
    pub headers: Headers,
    /// Calls by kind of file and number.
    pub calls: HashMap<(Kind, u32), &'static Entry>,
    /// The same in the order of calls.txt.
    pub order: Vec<&'static Entry>,
    rules: HashMap<(&'static str, &'static str), Rule>,
    cases: HashMap<(&'static str, &'static str, u64), Rule>,
}

/// A call.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: &'static str,
    /// The number.
    pub number: u32,
    /// The kinds of files.
    pub kinds: Vec<Kind>,
    /// Which way the argument goes.
    pub direction: Direction,
    /// The argument.
    pub argument: Argument,
    /// What the call is for.
    pub why: &'static str,
    /// The document and its section.
    pub document: &'static str,
}

/// Which way an argument goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not read.
    None,
    /// From the program.
    In,
    /// From the kernel.
    Out,
    /// Both; each field has its way.
    Both,
}

/// A call's argument.
#[derive(Debug, PartialEq)]
pub enum Argument {
    /// None.
    None,
    /// The argument itself.
    Value(Form),
    /// A pointer to a type.
    To(&'static str, Form),
}

/// The kinds of KVM's files.
const KVM: [Kind; 6] = [
    Kind::Kvm,
    Kind::Vm,
    Kind::TdxVm,
    Kind::Vcpu,
    Kind::KvmDevice,
    Kind::KvmOther,
];

impl Tables {
    /// The tables of this program.
    pub fn get() -> &'static Self {
        static TABLES: OnceLock<Tables> = OnceLock::new();
        TABLES.get_or_init(|| Self::read().expect("a test reads the same tables"))
    }

    /// Reads the tables.
    ///
    /// # Errors
    /// A line is not understood, or names what the headers do not have.
    pub fn read() -> Result<Self, String> {
        let headers = Headers::read()?;
        let extra = Extra {
            msrs: names(MSRS)?,
            cpuid: names(CPUID)?,
        };
        let mut tables = Self {
            headers,
            ..Self::default()
        };
        tables.read_fields(&extra)?;
        tables.read_calls(&extra)?;
        Ok(tables)
    }

    fn read_fields(&mut self, extra: &Extra) -> Result<(), String> {
        let headers = &self.headers;
        let source = Source { headers, extra };
        for line in lines(FIELDS) {
            let words: Vec<&'static str> = line.split_whitespace().collect();
            let wrong = |why: String| format!("fields.txt: {line}: {why}");
            let rule = source.rule(&words[1..]).map_err(wrong)?;
            let (path, case) = match words[0].split_once('@') {
                Some((path, case)) => (path, Some(case)),
                None => (words[0], None),
            };
            let (record, field) = path
                .rsplit_once('.')
                .ok_or_else(|| wrong("no field".to_owned()))?;
            let known = headers
                .types
                .get(plain(record))
                .is_some_and(|known| known.fields.iter().any(|member| member.name == field));
            if !known {
                return Err(wrong("the headers have no such field".to_owned()));
            }
            let Some(case) = case else {
                if self.rules.insert((record, field), rule).is_some() {
                    return Err(wrong("it is there twice".to_owned()));
                }
                continue;
            };
            let constant = headers.constants.iter().find(|(name, _)| *name == case);
            let value = constant.map(|(_, value)| *value).or_else(|| number(case));
            let value = value.ok_or_else(|| wrong(format!("the headers have no {case}")))?;
            self.cases.entry((record, field, value)).or_insert(rule);
        }
        Ok(())
    }

    fn read_calls(&mut self, extra: &Extra) -> Result<(), String> {
        let headers = &self.headers;
        let source = Source { headers, extra };
        let mut rest = lines(CALLS).peekable();
        while let Some(line) = rest.next() {
            let wrong = |why: String| format!("calls.txt: {line}: {why}");
            let mut text = || {
                let line = rest.next_if(|line| line.starts_with('\t'));
                line.map(str::trim)
                    .ok_or_else(|| wrong("its text is missing".to_owned()))
            };
            let (why, document) = (text()?, text()?);
            let words: Vec<&'static str> = line.split_whitespace().collect();
            let [name, files, direction, ..] = words[..] else {
                return Err(wrong("too few words".to_owned()));
            };
            let (_, number, of_header) = headers
                .calls
                .iter()
                .find(|(call, ..)| *call == name)
                .ok_or_else(|| wrong("the headers have no such call".to_owned()))?;
            let kinds = kinds(files).ok_or_else(|| wrong("no such file".to_owned()))?;
            let direction = match direction {
                "none" => Direction::None,
                "in" => Direction::In,
                "out" => Direction::Out,
                "both" => Direction::Both,
                other => return Err(wrong(format!("{other} is no direction"))),
            };
            let argument = match words[3..] {
                ["-"] => Argument::None,
                ["value", ref form @ ..] => Argument::Value(source.form(form).map_err(wrong)?),
                ["=", ref form @ ..] => Argument::To(of_header, source.form(form).map_err(wrong)?),
                [base, ref form @ ..] => Argument::To(base, source.form(form).map_err(wrong)?),
                [] => return Err(wrong("no argument".to_owned())),
            };
            // The tables live as long as the program.
            let entry: &'static Entry = Box::leak(Box::new(Entry {
                name,
                number: *number,
                kinds,
                direction,
                argument,
                why,
                document,
            }));
            self.order.push(entry);
            for kind in &entry.kinds {
                self.calls.insert((*kind, entry.number), entry);
            }
        }
        Ok(())
    }

    /// All forms of fields.txt with their structure and field.
    #[cfg(test)]
    pub fn forms(&self) -> impl Iterator<Item = (&'static str, &'static str, &Form)> {
        let rules = self
            .rules
            .iter()
            .map(|((record, field), rule)| (*record, *field, &rule.form));
        let cases = self.cases.iter();
        rules.chain(cases.map(|((record, field, _), rule)| (*record, *field, &rule.form)))
    }

    /// The rule of a field. A view without a rule of its own has its type's.
    pub fn rule(&self, record: &'static str, field: &'static str) -> Option<&Rule> {
        self.rules
            .get(&(record, field))
            .or_else(|| self.rules.get(&(plain(record), field)))
    }

    /// The rule of a field whose form depends on another field's value.
    pub fn case(&self, record: &'static str, field: &'static str, value: u64) -> Option<&Rule> {
        self.cases
            .get(&(record, field, value))
            .or_else(|| self.cases.get(&(plain(record), field, value)))
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
}

/// `NUMBER NAME`, a line each.
fn names(text: &'static str) -> Result<Names, String> {
    lines(text)
        .map(|line| {
            let (value, name) = line.split_once(' ')?;
            Some((number(value)?, name))
        })
        .collect::<Option<Names>>()
        .ok_or_else(|| "a table of names has a line without a number".to_owned())
}

fn kinds(text: &str) -> Option<Vec<Kind>> {
    let mut kinds = Vec::new();
    for word in text.split(',') {
        match word {
            "kvm" => kinds.extend(KVM),
            "vcpu" => kinds.push(Kind::Vcpu),
            "tdx-vm" => kinds.push(Kind::TdxVm),
            "kvm-device" => kinds.push(Kind::KvmDevice),
            "container" => kinds.push(Kind::Container),
            "group" => kinds.push(Kind::Group),
            "device" => kinds.push(Kind::Device),
            "migration" => kinds.push(Kind::Migration),
            "iommufd" => kinds.push(Kind::Iommufd),
            _ => return None,
        }
    }
    Some(kinds)
}
