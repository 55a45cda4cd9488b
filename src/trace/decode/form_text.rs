//! Reads the words of table/fields.txt.

use super::form::{Fails, Form, Length, Names, Rule, Target, Way, When};
use super::headers::{Headers, number};

/// Names that are in no header of the table.
#[derive(Debug, Default)]
pub struct Extra {
    /// Model-specific registers.
    pub msrs: Names,
    /// CPUID leaves.
    pub cpuid: Names,
}

/// Where names have their values from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The headers.
    pub headers: &'a Headers,
    /// The other tables.
    pub extra: &'a Extra,
}

impl Source<'_> {
    /// Reads `[WAY] [FORM …]`.
    pub fn rule(&self, words: &[&'static str]) -> Result<Rule, String> {
        let way = words
            .first()
            .and_then(|word| way(word).or_else(|| conditional(word)));
        let rest = if way.is_some() { &words[1..] } else { words };
        let form = self.form(rest)?;
        Ok(Rule { way, form })
    }

    /// Reads a form; no words are the plain form.
    pub fn form(&self, words: &[&'static str]) -> Result<Form, String> {
        let Some((first, rest)) = words.split_first() else {
            return Ok(Form::Plain);
        };
        let simple = match *first {
            "dec" => Form::Decimal,
            "hex" | "gpa" | "iova" | "va" => Form::Hex,
            "signed" => Form::Signed,
            "text" => Form::Text,
            "bytes" => Form::Bytes,
            "ptr" => Form::Pointer,
            "fd" => Form::Descriptor,
            "object" => Form::Object,
            "skip" => Form::Skip,
            "msr" => Form::Enum(self.extra.msrs.clone()),
            "cpuid" => Form::Enum(self.extra.cpuid.clone()),
            _ => return self.longer(first, rest),
        };
        if rest.is_empty() {
            Ok(simple)
        } else {
            Err(format!("{first} takes no {rest:?}"))
        }
    }

    fn longer(&self, first: &str, rest: &[&'static str]) -> Result<Form, String> {
        let second = *rest.first().ok_or_else(|| format!("{first} alone"))?;
        match first {
            "flags" => {
                let end = rest.iter().position(|word| *word == "|");
                let bits = self.names(&rest[..end.unwrap_or(rest.len())])?;
                let bits = bits
                    .into_iter()
                    .filter(|(value, _)| value.is_power_of_two())
                    .collect();
                let Some(end) = end else {
                    return Ok(Form::Flags(bits, 0, Vec::new()));
                };
                let mask = rest.get(end + 1).and_then(|mask| number(mask));
                let mask = mask.ok_or("| needs a mask")?;
                let names = self.names(&rest[end + 2..])?;
                Ok(Form::Flags(bits, mask, names))
            }
            "enum" => Ok(Form::Enum(self.names(rest)?)),
            "chain" => Ok(Form::Chain(self.names(rest)?)),
            "first" => Ok(Form::First(Box::new(self.form(rest)?))),
            "count" => {
                let length = length(second)?;
                Ok(Form::Count(length, Box::new(self.form(&rest[1..])?)))
            }
            "to" => Ok(Form::To(self.target(second, &rest[1..])?)),
            "as" => Ok(Form::As(self.target(second, &rest[1..])?)),
            "member" => Ok(Form::Member(second)),
            "by" => match second.split_once('&') {
                Some((field, mask)) => {
                    let mask = number(mask).ok_or_else(|| format!("{mask} is no mask"))?;
                    Ok(Form::By(field, mask))
                }
                None => Ok(Form::By(second, u64::MAX)),
            },
            other => Err(format!("{other} is no form")),
        }
    }

    fn target(&self, text: &'static str, rest: &[&'static str]) -> Result<Target, String> {
        let (base, length) = match text.split_once('[') {
            Some((base, inner)) => (base, Some(length(inner.trim_end_matches(']'))?)),
            None => (text, None),
        };
        let form = Box::new(self.form(rest)?);
        Ok(Target { base, length, form })
    }

    /// Values of constants. Of several names for one value the first counts.
    fn names(&self, patterns: &[&'static str]) -> Result<Names, String> {
        let mut names = Names::new();
        for pattern in patterns {
            let before = names.len();
            if let Some(group) = pattern.strip_prefix('@') {
                let constants = self.headers.enums.get(group);
                let constants = constants.ok_or_else(|| format!("no enumeration {group}"))?;
                // The end of an enumeration is no value.
                let values = constants.iter().filter(|(name, _)| !is_end(name));
                names.extend(values.map(|(name, value)| (*value, *name)));
            } else if let Some((start, end)) = pattern.split_once('*') {
                let fits = |name: &str| {
                    name.len() >= start.len() + end.len()
                        && name.starts_with(start)
                        && name.ends_with(end)
                };
                let found = self.headers.constants.iter();
                names.extend(
                    found
                        .filter(|(name, _)| fits(name))
                        .map(|(name, value)| (*value, *name)),
                );
            } else {
                let found = self.headers.constants.iter();
                names.extend(
                    found
                        .filter(|(name, _)| name == pattern)
                        .map(|(name, value)| (*value, *name)),
                );
            }
            if names.len() == before {
                return Err(format!("the headers have no constant {pattern}"));
            }
        }
        Ok(names)
    }
}

fn is_end(name: &str) -> bool {
    name.ends_with("_MAX") || name.ends_with("_NR")
}

/// Errors by which the kernel says that there is more than fits.
const ERRNOS: [(&str, i64); 3] = [("E2BIG", 7), ("ENOSPC", 28), ("EMSGSIZE", 90)];

fn way(word: &str) -> Option<Way> {
    let (word, fails) = match word.split_once('!') {
        Some((word, "")) => (word, Fails::Any),
        Some((word, errno)) => {
            let found = ERRNOS.iter().find(|(name, _)| *name == errno)?;
            (word, Fails::With(found.1))
        }
        None => (word, Fails::Never),
    };
    let (enters, leaves) = match word {
        "in" => (When::Always, When::Never),
        "out" => (When::Never, When::Always),
        "both" => (When::Always, When::Always),
        _ => return None,
    };
    Some(Way {
        enters,
        leaves,
        fails,
    })
}

fn length(text: &'static str) -> Result<Length, String> {
    if let Some(count) = number(text) {
        return Ok(Length::Number(count));
    }
    let wrong = || format!("{text} is no length");
    if let Some((field, by)) = text.split_once('/') {
        return Ok(Length::Field(field, 0, number(by).ok_or_else(wrong)?));
    }
    if let Some((field, less)) = text.split_once('-') {
        return Ok(Length::Field(field, number(less).ok_or_else(wrong)?, 1));
    }
    Ok(Length::Field(text, 0, 1))
}

/// `in:FIELD&MASK,out:FIELD&MASK`.
fn conditional(word: &'static str) -> Option<Way> {
    let (enters, leaves) = word.strip_prefix("in:")?.split_once(",out:")?;
    let when = |text: &'static str| {
        let (field, mask) = text.split_once('&')?;
        Some(When::Bits(field, number(mask)?))
    };
    Some(Way {
        enters: when(enters)?,
        leaves: when(leaves)?,
        fails: Fails::Never,
    })
}
