//! Coloured words for a terminal (ECMA-48, 8.3.117: SGR), and lines of a limited width.

use std::env;
use std::io::IsTerminal;

/// The width of the output in columns. Every terminal is at least this wide.
pub const WIDTH: usize = 80;

/// Whether words are coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Colours for a terminal, unless NO_COLOR is set or the terminal is dumb.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            colour: stream.is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }

    /// Green.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Yellow.
    pub fn so_so(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Red.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Faint.
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }
}

/// Cuts a text to at most `width` columns, including the mark `…` at the cut.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Fills lines of at most `width` columns with words, separated by `between`. A line of a single
/// word may be longer.
pub fn fill(words: &[String], between: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line)
                if line.chars().count() + between.chars().count() + word.chars().count()
                    <= width =>
            {
                line.push_str(between);
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_narrow() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("a long name", 8), "a long…");
        assert_eq!(cut("ééé", 3), "ééé");
        let words = ["one", "two", "three"].map(String::from);
        assert_eq!(fill(&words, " · ", 9), ["one · two", "three"]);
        assert_eq!(fill(&words, " · ", 2), ["one", "two", "three"]);
        assert!(fill(&[], " ", 9).is_empty());
    }

    #[test]
    fn colour_is_off_unless_asked_for() {
        assert_eq!(Style::default().good("x"), "x");
        assert_eq!(Style { colour: true }.bad("x"), "\x1b[31mx\x1b[0m");
    }
}
