//! The device, bound to vfio-pci by `mini-vmm host bind`.

use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::say;
use crate::subjects::program::Program;

/// What `mini-vmm host unbind` says of a device that is with the host's driver.
const NOT_BOUND: &str = "is not bound";

/// The outcome of a turn, and of giving the device back after it. If both have failed, the turn's
/// error is the first, and says why; the other one is said at once, because the device is left.
pub(super) fn first<T>(trial: Result<T>, back: Result<()>, say: impl FnOnce(&Error)) -> Result<T> {
    match (trial, back) {
        (Ok(trial), back) => back.map(|()| trial),
        (Err(error), back) => {
            if let Err(back) = back {
                say(&back);
            }
            Err(error)
        }
    }
}

/// The device, bound to vfio-pci. It goes back when this is dropped.
pub(super) struct Bound<'a> {
    binder: &'a Program,
    address: &'a str,
    is_bound: bool,
}

impl<'a> Bound<'a> {
    pub(super) fn take(binder: &'a Program, address: &'a str) -> Result<Self> {
        let mut bound = Self {
            binder,
            address,
            is_bound: false,
        };
        match bound.host("bind") {
            Ok(()) => {
                bound.is_bound = true;
                Ok(bound)
            }
            // A bind that was killed, or that has failed half-way, may have left something. The
            // error of `host unbind` for a device that is not bound says so.
            Err(error) => Err(match bound.host("unbind") {
                Err(e) if !e.details().iter().any(|line| line.contains(NOT_BOUND)) => {
                    error.with_hint(bound.hint())
                }
                _ => error,
            }),
        }
    }

    pub(super) fn give_back(mut self) -> Result<()> {
        self.is_bound = false;
        self.host("unbind").map_err(|e| e.with_hint(self.hint()))
    }

    /// What to type if the device does not go back.
    fn hint(&self) -> String {
        format!("mini-vmm host unbind {}", self.address)
    }

    /// Runs `mini-vmm host bind` or `unbind`. Ctrl-C on the terminal does not reach it.
    fn host(&self, what: &str) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let output = Command::new(&self.binder.path)
            .args(["host", what, self.address])
            .stdin(Stdio::null())
            .process_group(0)
            .output()
            .context(format!("cannot run {}", self.binder.path.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let words = format!("`mini-vmm host {what} {}` has failed", self.address);
        Err(Error::new(words).with_details(said.lines().map(str::to_owned)))
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if self.is_bound
            && let Err(error) = self.host("unbind")
        {
            say::error(&error.with_hint(self.hint()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    /// A program that writes down how it is called. What is named in `fails` fails, and says
    /// `says`.
    fn binder(name: &str, fails: &str, says: &str) -> (Program, PathBuf) {
        let dir = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("mini-vmm");
        let calls = dir.join("calls");
        let text = format!(
            "#!/bin/sh\necho $* >>{}\n\
             case \" {fails} \" in *\" $2 \"*) echo \"{says}\" >&2; exit 1;; esac\n",
            calls.display()
        );
        // A shell writes it: a file that this process writes is open in children of other tests,
        // too, and cannot be run meanwhile.
        let wrote = Command::new("/bin/sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .args([path.as_os_str(), text.as_ref()])
            .status();
        assert!(wrote.unwrap().success());
        let program = Program {
            path,
            version: String::new(),
            sha256: String::new(),
        };
        (program, calls)
    }

    fn calls(at: &Path) -> Vec<String> {
        let text = fs::read_to_string(at).unwrap();
        fs::remove_dir_all(at.parent().unwrap()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_bind_that_has_failed_is_undone() {
        let left = Some("mini-vmm host unbind 0000:01:00.0");
        let not_bound = ::host::bind::BindError::NotBound(ADDRESS.parse().unwrap()).to_string();
        for (name, fails, says, hint) in [
            ("half", "bind", "", None),
            ("none", "bind unbind", not_bound.as_str(), None),
            ("stuck", "bind unbind", "the driver is busy", left),
        ] {
            let (program, at) = binder(name, fails, says);
            let error = Bound::take(&program, ADDRESS).err().unwrap();
            assert!(error.to_string().contains("host bind"), "{error}");
            assert_eq!(error.hint(), hint);
            let wanted = ["host bind 0000:01:00.0", "host unbind 0000:01:00.0"];
            assert_eq!(calls(&at), wanted);
        }
    }

    #[test]
    fn a_device_that_does_not_go_back_is_told_with_the_remedy() {
        let (program, at) = binder("back", "unbind", "");
        let bound = Bound::take(&program, ADDRESS).unwrap();
        let error = bound.give_back().unwrap_err();
        assert_eq!(error.hint(), Some("mini-vmm host unbind 0000:01:00.0"));
        assert_eq!(calls(&at).len(), 2);
    }

    #[test]
    fn neither_error_is_lost() {
        let failed = |what: &str| Error::new(what);
        let mut said = Vec::new();
        let mut both = |trial, back| {
            let outcome = first(trial, back, |e| said.push(e.to_string()));
            outcome.map_err(|e| e.to_string())
        };
        assert_eq!(both(Ok(1), Ok(())), Ok(1));
        assert_eq!(both(Ok(1), Err(failed("back"))), Err("back".into()));
        assert_eq!(both(Err(failed("turn")), Ok(())), Err("turn".into()));
        let two = both(Err(failed("turn")), Err(failed("back")));
        assert_eq!(two, Err("turn".into()));
        assert_eq!(said, ["back"]);
    }
}
