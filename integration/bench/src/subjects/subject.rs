//! A subject: a kind with its name in tables, and its program.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kind::Kind;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it is called in tables.
    pub name: String,
    /// How it is started.
    pub kind: Kind,
    /// The program, on this machine.
    pub program: PathBuf,
}

impl Subject {
    /// One of a kind.
    pub fn new(name: &str, kind: Kind, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            program: program.into(),
        }
    }

    /// Whether PEERS named it.
    pub fn is_given(&self) -> bool {
        Kind::of(&self.name) == Some(self.kind)
    }

    /// Whether its program needs libraries.
    pub fn is_dynamic(&self) -> bool {
        is_dynamic(&self.program)
    }
}

fn is_dynamic(program: &Path) -> bool {
    // ldd fails on a file that has no dynamic section. A file that has one, but names no library in
    // it, is a static program that can be loaded anywhere.
    Command::new("ldd")
        .arg(program)
        .output()
        .is_ok_and(|output| {
            output.status.success()
                && !String::from_utf8_lossy(&output.stdout).contains("statically linked")
        })
}
