//! Which of apt's package lists name a package: the machine's own lists, or lists of another suite
//! of Debian's that the lab keeps in its cache. The machine's lists, sources and packages stay as
//! they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};
use crate::host;

/// Debian's keys, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists, and the options that make apt use them.
#[derive(Debug)]
pub struct Lists {
    /// The lab's own lists are here; `None` for the machine's lists.
    own: Option<PathBuf>,
}

impl Lists {
    /// The machine's own lists.
    pub fn of_machine() -> Self {
        Self { own: None }
    }

    /// Lists of another suite, kept in a directory of the cache. They come from the mirror that the
    /// machine's own lists come from.
    pub fn of_suite(suite: &str, cache: &Path) -> Result<Self> {
        let dir = cache.join(format!("apt-{suite}"));
        for needed in ["state/lists/partial", "cache/archives/partial"] {
            let path = dir.join(needed);
            fs::create_dir_all(&path).context(format!("make {}", path.display()))?;
        }
        let mirror = mirror(&host::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
            "Label: Debian",
        ]))?)?;
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).context(format!("write {}", path.display()))
        };
        write(
            "sources.list",
            &source(&mirror, suite, Path::new(KEYRING).exists()),
        )?;
        // No package counts as installed.
        write("status", "")?;
        Ok(Self { own: Some(dir) })
    }

    /// Downloads a package into `work`, and unpacks it into a new directory `tree`. Returns the
    /// package's file.
    pub fn unpack(&self, package: &str, work: &Path, tree: &Path) -> Result<PathBuf> {
        fs::create_dir_all(tree).context(format!("make {}", tree.display()))?;
        let mut command = self.command("apt-get");
        command.current_dir(work);
        host::output(command.args(["-q", "download", package]))?;
        let file = host::entries(work)
            .into_iter()
            .find(|path| path.extension().is_some_and(|end| end == "deb"))
            .ok_or_else(|| Error::failed("apt-get download left no package"))?;
        host::output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(tree))?;
        Ok(file)
    }

    /// A command of apt that uses these lists.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(dir) = &self.own {
            for (name, file) in [
                ("Dir::State", "state"),
                ("Dir::State::status", "status"),
                ("Dir::Cache", "cache"),
                ("Dir::Etc::sourcelist", "sources.list"),
            ] {
                let path = dir.join(file);
                command.args(["-o", &format!("{name}={}", path.display())]);
            }
            command.args(["-o", "Dir::Etc::sourceparts=-"]);
            // The list of programs in packages is large, and the lab does not read it.
            let unread = "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false";
            command.args(["-o", unread]);
        }
        // apt's own user may not write to the directories, because they belong to the caller.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }

    /// Reads the lists anew from the mirror.
    pub fn update(&self) -> Result<()> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let mut command = if root || self.own.is_some() {
            self.command("apt-get")
        } else {
            let mut command = Command::new("sudo");
            command.args(["-n", "apt-get"]);
            command
        };
        host::output(command.args(["-q", "update"])).map(drop)
    }

    /// Whether nobody but the lab updates these lists.
    pub fn are_the_labs(&self) -> bool {
        self.own.is_some()
    }
}

/// The first mirror in the output of `apt-get indextargets`.
fn mirror(targets: &str) -> Result<String> {
    let first = targets.lines().map(str::trim).find(|line| !line.is_empty());
    first.map(str::to_owned).ok_or_else(|| {
        Error::failed("the machine's package lists are not Debian's, so no mirror is known")
    })
}

/// A line of sources.list.
fn source(mirror: &str, suite: &str, keyring: bool) -> String {
    let signed = if keyring {
        format!("[signed-by={KEYRING}] ")
    } else {
        // apt's own keys.
        String::new()
    };
    format!("deb {signed}{mirror} {suite} main\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines() {
        let targets = "\nhttp://mirror.example/debian/\nhttp://other.example/debian/\n";
        let mirror = mirror(targets).unwrap();
        assert_eq!(mirror, "http://mirror.example/debian/");
        assert_eq!(
            source(&mirror, "testing", true),
            format!("deb [signed-by={KEYRING}] http://mirror.example/debian/ testing main\n")
        );
        assert_eq!(
            source(&mirror, "testing", false),
            "deb http://mirror.example/debian/ testing main\n"
        );
        assert!(super::mirror("\n").is_err());
    }

    #[test]
    fn only_the_labs_lists_have_directories_of_their_own() {
        let words = |lists: &Lists| -> Vec<String> {
            let command = lists.command("apt-get");
            let words = command.get_args().map(|word| word.to_string_lossy());
            words.map(String::from).collect()
        };
        let machine = words(&Lists::of_machine());
        assert!(!machine.iter().any(|word| word.starts_with("Dir::")));
        let own = Lists {
            own: Some("/nowhere".into()),
        };
        let own = words(&own);
        for wanted in [
            "Dir::State=/nowhere/state",
            "Dir::State::status=/nowhere/status",
            "Dir::Cache=/nowhere/cache",
            "Dir::Etc::sourcelist=/nowhere/sources.list",
            "Dir::Etc::sourceparts=-",
        ] {
            assert!(own.iter().any(|word| word == wanted), "{own:?}");
        }
    }
}
