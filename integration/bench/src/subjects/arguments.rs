//! The words of a command line, collected one flag after the other.

use std::ffi::OsString;
use std::path::Path;

/// A program's arguments.
#[derive(Debug, Default)]
pub struct Arguments(Vec<OsString>);

impl Arguments {
    /// Adds words.
    pub fn text(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    /// Adds a path.
    pub fn bare_path(&mut self, path: &Path) {
        self.0.push(path.into());
    }

    /// Adds a flag with a path.
    pub fn path(&mut self, flag: &str, path: &Path) {
        self.text(&[flag]);
        self.bare_path(path);
    }

    /// Adds a flag with a path if there is a path.
    pub fn optional(&mut self, flag: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.path(flag, path);
        }
    }

    /// Adds a flag with the kernel parameters if there are any.
    pub fn cmdline(&mut self, flag: &str, cmdline: &str) {
        if !cmdline.is_empty() {
            self.text(&[flag, cmdline]);
        }
    }

    /// Returns all words.
    pub fn into_words(self) -> Vec<OsString> {
        self.0
    }
}
