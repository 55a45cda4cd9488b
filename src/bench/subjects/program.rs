//! A program that is measured: its path, version and hash.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::work::fingerprint::sha256;

/// A program that is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// What it says with `--version`.
    pub version: String,
    /// The hash of its file.
    pub sha256: String,
}

impl Program {
    /// A mini-vmm that the user has named.
    ///
    /// # Errors
    /// The program cannot be read or started, or is another program.
    pub fn named(path: &Path) -> Result<Self> {
        let program = Self::any(path, "--version")?;
        match program.version.starts_with("mini-vmm ") {
            true => Ok(program),
            false => Err(Error::new(format!(
                "{} is another program than mini-vmm: its --version says {:?}",
                path.display(),
                program.version
            ))
            .with_hint("--vmm names the program mini-vmm; --peer names other VMMs")),
        }
    }

    /// A program of this name in PATH.
    ///
    /// # Errors
    /// There is none, or it cannot be started.
    pub fn in_path(name: &str, version: &str) -> Result<Self> {
        let search = env::var_os("PATH").unwrap_or_default();
        let mut all = env::split_paths(&search).map(|dir| dir.join(name));
        match all.find(|path| path.is_file()) {
            Some(path) => Self::any(&path, version),
            None => Err(Error::new(format!("there is no {name} in PATH"))),
        }
    }

    /// Any program that says its version with this argument.
    ///
    /// # Errors
    /// The program cannot be read or started, or fails.
    pub fn any(path: &Path, version: &str) -> Result<Self> {
        let path = fs::canonicalize(path).context(format!("cannot open {}", path.display()))?;
        let bytes = fs::read(&path).context(format!("cannot read {}", path.display()))?;
        let output = Command::new(&path).arg(version).output();
        let output = output.context(format!("cannot run {}", path.display()))?;
        let version = String::from_utf8_lossy(&output.stdout);
        let version = version.lines().next().unwrap_or_default().trim().to_owned();
        if !output.status.success() {
            let what = format!("{} does not say its version", path.display());
            return Err(Error::new(what));
        }
        Ok(Self {
            version,
            sha256: sha256(&bytes),
            path,
        })
    }

    /// The program in words.
    pub fn in_words(&self) -> String {
        format!(
            "{} ({}), sha256 {}",
            self.path.display(),
            self.version,
            self.sha256
        )
    }

    /// The mini-vmm beside this program, or the first in PATH.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self> {
        let beside = env::current_exe().ok();
        let beside = beside.map(|path| path.with_file_name("mini-vmm"));
        let search = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&search).map(|dir| dir.join("mini-vmm"));
        match beside
            .into_iter()
            .chain(in_path)
            .find(|path| path.is_file())
        {
            Some(path) => Self::named(&path),
            None => Err(
                Error::new("there is no mini-vmm beside this program or in PATH")
                    .with_hint("name one: --vmm /path/to/mini-vmm"),
            ),
        }
    }
}
