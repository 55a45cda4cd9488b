//! What the program says on the terminal. Its reader may have gone (`| head`, a closed
//! terminal): a write that fails is no reason to lose a result or to leave a device behind, so no
//! error of a write is one of the program.

use std::error::Error as _;
use std::fmt::Display;
use std::io::{self, Write};

use crate::error::Error;

/// Says something on standard output.
pub fn text(text: impl Display) {
    to(&mut io::stdout().lock(), text);
}

/// Says something on standard error, as a line.
pub fn line(line: impl Display) {
    to(&mut io::stderr().lock(), format_args!("{line}\n"));
}

/// Says an error on standard error: the last lines of a guest, the error, and what to type.
pub fn error(error: &Error) {
    for detail in error.details() {
        line(format_args!("  | {}", printable(detail)));
    }
    let source = error.source().map(|source| format!(": {source}"));
    let words = printable(&format!("{error}{}", source.unwrap_or_default()));
    line(format_args!("mini-vmm-bench: {words}"));
    if let Some(hint) = error.hint() {
        line(format_args!("hint: {hint}"));
    }
}

fn to(out: &mut dyn Write, text: impl Display) {
    // Without a reader there is nobody to tell.
    let _ = write!(out, "{text}");
    // The same.
    let _ = out.flush();
}

/// Escapes what a terminal would take for a command: a guest says what it likes.
fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.into(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reader of a pipe has gone.
    #[test]
    fn nobody_listens() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        assert!(writer.write(b"x").is_err());
        to(&mut writer, "nobody reads this");
    }

    #[test]
    fn nothing_a_guest_says_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }
}
