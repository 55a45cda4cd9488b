//! A subject: a kind with its program, and its name in tables.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kind::Kind;

/// A program to measure, with its name and its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The name in tables.
    pub name: String,
    /// The kind, which determines how the program is started.
    pub kind: Kind,
    /// The path of the program on this machine.
    pub program: PathBuf,
}

impl Subject {
    /// A subject of this kind.
    pub fn new(name: &str, kind: Kind, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            program: program.into(),
        }
    }

    /// Whether the variable PEERS named the subject.
    pub fn is_given(&self) -> bool {
        Kind::of(&self.name) == Some(self.kind)
    }

    /// Whether the subject's program needs shared libraries.
    pub fn is_dynamic(&self) -> bool {
        is_dynamic(&self.program)
    }
}

fn is_dynamic(program: &Path) -> bool {
    // ldd fails on a file without a dynamic section. A static program that can be loaded at any
    // address has a dynamic section, but ldd lists no library for it.
    Command::new("ldd")
        .arg(program)
        .output()
        .is_ok_and(|output| {
            output.status.success()
                && !String::from_utf8_lossy(&output.stdout).contains("statically linked")
        })
}
