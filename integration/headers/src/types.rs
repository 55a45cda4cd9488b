//! Reads structures, unions and enumerations.

use crate::declared::{Base, Kind, Member, Record, Types};
use crate::expression::Names;
use crate::preprocess::Macros;
use crate::tokens::Token;

/// The C names of numbers on x86-64.
const NUMBERS: [(&str, &str, u64); 15] = [
    ("__u8", "u8", 1),
    ("__u16", "u16", 2),
    ("__u32", "u32", 4),
    ("__u64", "u64", 8),
    ("__s8", "s8", 1),
    ("__s16", "s16", 2),
    ("__s32", "s32", 4),
    ("__s64", "s64", 8),
    ("__aligned_u64", "u64", 8),
    ("__le64", "u64", 8),
    ("__aligned_le64", "u64", 8),
    ("char", "char", 1),
    ("int", "s32", 4),
    ("long", "u64", 8),
    ("void", "u8", 1),
];

/// Reads the declarations of a header.
pub fn read(code: &[Token], types: &mut Types, macros: &Macros) -> Result<(), String> {
    let mut reader = Reader {
        rest: code,
        types,
        macros,
    };
    while !reader.rest.is_empty() {
        reader.declaration()?;
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [Token],
    types: &'a mut Types,
    macros: &'a Macros,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<&'a Token, String> {
        let (first, rest) = self.rest.split_first().ok_or("a declaration has no end")?;
        self.rest = rest;
        Ok(first)
    }

    fn sees(&self, sign: &str) -> bool {
        self.rest.first().is_some_and(|token| token.is(sign))
    }

    fn skip(&mut self, sign: &str) -> bool {
        let sees = self.sees(sign);
        if sees {
            self.rest = &self.rest[1..];
        }
        sees
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        let token = self.next()?;
        if token.is(sign) {
            Ok(())
        } else {
            Err(format!("{token:?} is where {sign} is expected"))
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let token = self.next()?;
        let word = token.word().map(str::to_owned);
        word.ok_or_else(|| format!("{token:?} is where a name is expected"))
    }

    /// The tokens until one of the signs, which is left, outside of brackets.
    fn until(&mut self, ends: &[&str]) -> Result<&'a [Token], String> {
        let mut depth = 0_u32;
        for (at, token) in self.rest.iter().enumerate() {
            if depth == 0 && ends.iter().any(|end| token.is(end)) {
                let (taken, rest) = self.rest.split_at(at);
                self.rest = rest;
                return Ok(taken);
            }
            if token.is("(") || token.is("[") {
                depth += 1;
            } else if token.is(")") || token.is("]") {
                depth = depth.saturating_sub(1);
            }
        }
        Err("an expression has no end".to_owned())
    }

    fn value(&self, tokens: &[Token]) -> Result<u64, String> {
        let names = Names {
            macros: self.macros,
            types: self.types,
        };
        let value = names.value(tokens);
        value.ok_or_else(|| format!("{tokens:?} has no known value"))
    }

    fn declaration(&mut self) -> Result<(), String> {
        match self.name()?.as_str() {
            "enum" => {
                let name = self.rest[0].word().map(str::to_owned);
                if name.is_some() {
                    self.next()?;
                }
                self.enumeration(name)?;
            }
            word @ ("struct" | "union") => {
                let name = self.name()?;
                self.record(name, word)?;
            }
            other => return Err(format!("the reader knows no declaration by {other}")),
        }
        self.expect(";")
    }

    fn enumeration(&mut self, name: Option<String>) -> Result<(), String> {
        self.expect("{")?;
        let mut names = Vec::new();
        let mut next = 0_u64;
        while !self.skip("}") {
            let constant = self.name()?;
            if self.skip("=") {
                let tokens = self.until(&[",", "}"])?;
                next = self.value(tokens)?;
            }
            self.types.constants.insert(constant.clone(), next);
            names.push(constant);
            next = next.wrapping_add(1);
            self.skip(",");
        }
        let first = names.first().cloned().unwrap_or_default();
        self.types.enums.push((name.unwrap_or(first), names));
        Ok(())
    }

    /// Reads a record from its brace on.
    fn record(&mut self, name: String, word: &str) -> Result<(), String> {
        self.expect("{")?;
        let mut members = Vec::new();
        while !self.skip("}") {
            let added = self
                .members(&name, members.len())
                .map_err(|error| format!("{name}: {error}"))?;
            members.extend(added);
        }
        let kind = if word == "struct" {
            Kind::Struct
        } else {
            Kind::Union
        };
        let record = Record {
            name,
            kind,
            members,
        };
        self.types.records.push(record);
        Ok(())
    }

    /// The members of one line: `__u32 first, last;`.
    fn members(&mut self, outer: &str, before: usize) -> Result<Vec<Member>, String> {
        let word = self.name()?;
        if word == "__DECLARE_FLEX_ARRAY" {
            self.expect("(")?;
            let first = self.name()?;
            let base = self.base(&first)?;
            self.expect(",")?;
            let name = Some(self.name()?);
            self.expect(")")?;
            self.expect(";")?;
            return Ok(vec![Member {
                name,
                base,
                lengths: vec![None],
                bits: None,
            }]);
        }
        if matches!(word.as_str(), "struct" | "union") && self.sees("{") {
            return self.inner(outer, before, &word);
        }
        let base = self.base(&word)?;
        let mut members = Vec::new();
        while !self.skip(";") {
            members.push(self.declarator(&base)?);
            self.skip(",");
        }
        Ok(members)
    }

    /// A record inside of another.
    fn inner(&mut self, outer: &str, before: usize, word: &str) -> Result<Vec<Member>, String> {
        // The name follows the closing brace, and the members need the name.
        let start = self.rest;
        let mut depth = 0_u32;
        let end = start.iter().position(|token| {
            depth += u32::from(token.is("{"));
            depth -= u32::from(token.is("}"));
            depth == 0
        });
        let after = &start[end.ok_or("a record has no end")? + 1..];
        let name = after.first().and_then(Token::word).map(str::to_owned);
        let shown = name.clone().unwrap_or_else(|| format!("#{before}"));
        // The members of a record without a name are reached as the outer record's.
        let path = match outer.rsplit_once(".#") {
            Some((outer, number)) => match &name {
                Some(name) => format!("{outer}.{name}"),
                None => format!("{outer}.#{number}-{before}"),
            },
            None => format!("{outer}.{shown}"),
        };
        self.record(path.clone(), word)?;
        let base = Base::Record(path);
        if name.is_none() {
            self.expect(";")?;
            return Ok(vec![Member {
                name,
                base,
                lengths: Vec::new(),
                bits: None,
            }]);
        }
        let member = self.declarator(&base)?;
        self.expect(";")?;
        Ok(vec![member])
    }

    /// The type that begins with a word.
    fn base(&mut self, word: &str) -> Result<Base, String> {
        match word {
            "struct" | "union" => Ok(Base::Record(self.name()?)),
            "enum" => self.name().map(|_| Base::Number("u32", 4)),
            "unsigned" => {
                let word = self.name()?;
                self.base(&word)
            }
            word => NUMBERS
                .into_iter()
                .find(|(c, ..)| *c == word)
                .map(|(_, name, size)| Base::Number(name, size))
                .ok_or_else(|| format!("the type {word} is not known")),
        }
    }

    /// The part of a declaration that is one name's: `*name[4][2]` or `name:3`.
    fn declarator(&mut self, base: &Base) -> Result<Member, String> {
        let base = if self.skip("*") {
            Base::Number("ptr", 8)
        } else {
            base.clone()
        };
        let mut name = self.name()?;
        // A macro around a name, which is the name: HINT_UNSAFE_IN_KVM(immediate_exit).
        if self.skip("(") {
            name = self.name()?;
            self.expect(")")?;
        }
        let bits = if self.skip(":") {
            let tokens = self.until(&[",", ";"])?;
            Some(self.value(tokens)?)
        } else {
            None
        };
        let mut lengths = Vec::new();
        while self.skip("[") {
            let tokens = self.until(&["]"])?;
            let length = if tokens.is_empty() {
                None
            } else {
                Some(self.value(tokens)?)
            };
            lengths.push(length);
            self.expect("]")?;
        }
        if self.rest.first().and_then(Token::word) == Some("__counted_by") {
            self.next()?;
            self.until(&[";"])?;
        }
        Ok(Member {
            name: Some(name),
            base,
            lengths,
            bits,
        })
    }
}
