//! The text of a reader's answer.

use std::fs;
use std::path::Path;

/// A reader's file, with the ends of lines that Linux has.
///
/// # Errors
/// The file cannot be read, or is no text.
pub fn read(answer: &Path) -> Result<String, String> {
    let bytes = fs::read(answer).map_err(|e| format!("{}: {e}", answer.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.replace("\r\n", "\n")),
        Err(_) => Err(format!(
            "{} is no plain text: save the file as UTF-8.",
            answer.display()
        )),
    }
}

/// A text as one word of a shell's command.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
