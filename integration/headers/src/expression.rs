//! Values of constant expressions.

use crate::declared::Types;
use crate::preprocess::Macros;
use crate::tokens::Token;

/// How deep macros may lead to macros.
const DEPTH: u32 = 32;

/// Where names have their values from.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Macros.
    pub macros: &'a Macros,
    /// Enumerations.
    pub types: &'a Types,
}

impl Names<'_> {
    /// The value of an expression; `None` if it has parts that are no constants.
    pub fn value(&self, tokens: &[Token]) -> Option<u64> {
        self.whole(tokens, DEPTH)
    }

    /// The value of a constant.
    pub fn named(&self, name: &str) -> Option<u64> {
        self.name(name, DEPTH)
    }

    fn whole(&self, tokens: &[Token], depth: u32) -> Option<u64> {
        let mut reader = Reader {
            names: self,
            rest: tokens,
            depth: depth.checked_sub(1)?,
        };
        let value = reader.binary(0)?;
        reader.rest.is_empty().then_some(value)
    }

    fn name(&self, name: &str, depth: u32) -> Option<u64> {
        match self.types.constants.get(name) {
            Some(value) => Some(*value),
            None => self.whole(self.macros.get(name)?, depth),
        }
    }
}

/// Binary operators by their rank; a higher rank binds closer.
const OPERATORS: [(&str, u32); 8] = [
    ("|", 1),
    ("&", 2),
    ("<<", 3),
    (">>", 3),
    ("+", 4),
    ("-", 4),
    ("*", 5),
    ("/", 5),
];

struct Reader<'a> {
    names: &'a Names<'a>,
    rest: &'a [Token],
    depth: u32,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take(&mut self, sign: &str) -> Option<()> {
        self.next()?.is(sign).then_some(())
    }

    fn binary(&mut self, least: u32) -> Option<u64> {
        let mut left = self.unary()?;
        while let Some(Token::Sign(sign)) = self.rest.first() {
            let Some((_, rank)) = OPERATORS.iter().find(|(name, _)| name == sign) else {
                break;
            };
            if *rank < least {
                break;
            }
            self.next()?;
            let right = self.binary(rank + 1)?;
            left = match *sign {
                "|" => left | right,
                "&" => left & right,
                "<<" => left.checked_shl(u32::try_from(right).ok()?)?,
                ">>" => left.checked_shr(u32::try_from(right).ok()?)?,
                "+" => left.wrapping_add(right),
                "-" => left.wrapping_sub(right),
                "*" => left.wrapping_mul(right),
                _ => left.checked_div(right)?,
            };
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<u64> {
        match self.next()? {
            Token::Number(number) => Some(*number),
            Token::Sign("-") => Some(self.unary()?.wrapping_neg()),
            Token::Sign("~") => Some(!self.unary()?),
            Token::Sign("(") => {
                if let [Token::Word(word), close, ..] = self.rest
                    && word.starts_with("__u")
                    && close.is(")")
                {
                    self.rest = &self.rest[2..];
                    let value = self.unary()?;
                    return Some(if word == "__u32" {
                        value & u64::from(u32::MAX)
                    } else {
                        value
                    });
                }
                let value = self.binary(0)?;
                self.take(")")?;
                Some(value)
            }
            Token::Word(word) => self.word(word),
            _ => None,
        }
    }

    fn word(&mut self, word: &str) -> Option<u64> {
        // linux/const.h and linux/bits.h.
        match word {
            "_BITUL" | "_BITULL" => {
                self.take("(")?;
                let bit = self.binary(0)?;
                self.take(")")?;
                1_u64.checked_shl(u32::try_from(bit).ok()?)
            }
            "__GENMASK_ULL" => {
                self.take("(")?;
                let high = self.binary(0)?;
                self.take(",")?;
                let low = self.binary(0)?;
                self.take(")")?;
                let up = u64::MAX.checked_shr(63_u32.checked_sub(u32::try_from(high).ok()?)?)?;
                Some(up & u64::MAX.checked_shl(u32::try_from(low).ok()?)?)
            }
            name => self.names.name(name, self.depth),
        }
    }
}
