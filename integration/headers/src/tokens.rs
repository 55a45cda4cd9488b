//! Words, numbers and signs of C.

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name or a keyword.
    Word(String),
    /// A number, or a character as its number.
    Number(u64),
    /// Anything else: one character, or `<<` and `>>`.
    Sign(&'static str),
    /// A string, without its meaning.
    Text,
}

const SIGNS: [&str; 32] = [
    "<<", ">>", "==", "&&", "||", "!=", "{", "}", "(", ")", "[", "]", ";", ",", ":", "*", "=", "+",
    "-", "/", "%", "&", "|", "~", "!", "<", ">", "?", ".", "#", "^", "@",
];

impl Token {
    /// Whether the token is this sign.
    pub fn is(&self, sign: &str) -> bool {
        matches!(self, Self::Sign(own) if *own == sign)
    }

    /// The token as a word.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Splits text that has no comments.
pub fn split(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let taken = if first.is_alphabetic() || first == '_' {
            let end = end_of(rest, |c| c.is_alphanumeric() || c == '_');
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        } else if first.is_ascii_digit() {
            let end = end_of(rest, |c| c.is_alphanumeric());
            tokens.push(Token::Number(number(&rest[..end])?));
            end
        } else if first == '\'' {
            // The headers have plain characters alone.
            let inner = rest.as_bytes().get(1).copied().unwrap_or(0);
            tokens.push(Token::Number(u64::from(inner)));
            3
        } else if first == '"' {
            tokens.push(Token::Text);
            let inner = rest[1..].find('"');
            inner.ok_or("a string does not end")? + 2
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| format!("a character that is not known: {first}"))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest
            .get(taken..)
            .ok_or("the text ends in a token")?
            .trim_start();
    }
    Ok(tokens)
}

fn end_of(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn number(text: &str) -> Result<u64, String> {
    let plain = text.trim_end_matches(['u', 'U', 'l', 'L']);
    let lower = plain.to_ascii_lowercase();
    let parsed = if let Some(hex) = lower.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if plain.len() > 1 && plain.starts_with('0') {
        u64::from_str_radix(plain, 8)
    } else {
        plain.parse()
    };
    parsed.map_err(|error| format!("{text} is no number: {error}"))
}
