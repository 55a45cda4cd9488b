//! What differs from run to run and from machine to machine, and what stands for it: the patterns
//! of docs/tour/stable.txt.

use regex_lite::Regex;

/// Patterns and what replaces them, in order.
pub struct Stable(Vec<(Regex, String)>);

impl Stable {
    /// Replaces nothing.
    pub fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Parses lines `PATTERN => REPLACEMENT`. A line that begins with `#` is a remark.
    ///
    /// # Errors
    /// A line that is no pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let pattern = |line: &str| {
            let (pattern, by) = line
                .split_once(" => ")
                .ok_or_else(|| format!("`{line}` has no ` => `"))?;
            let pattern = Regex::new(pattern).map_err(|e| format!("`{pattern}`: {e}"))?;
            Ok((pattern, by.to_owned()))
        };
        lines.map(pattern).collect::<Result<_, _>>().map(Self)
    }

    /// The text with all patterns replaced.
    pub fn apply(&self, text: &str) -> String {
        let patterns = self.0.iter();
        patterns.fold(text.to_owned(), |text, (pattern, by)| {
            pattern.replace_all(&text, by.as_str()).into_owned()
        })
    }
}
