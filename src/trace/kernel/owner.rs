//! Who owns an instance: its name has the process and its start, so that the next run finds what a
//! killed one has left.

use std::fs;
use std::path::Path;

/// The beginning of the names.
const PREFIX: &str = "mini-vmm-trace";

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    start: u64,
}

impl Owner {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        let start = start(Path::new("/proc"), pid).unwrap_or(0);
        Self { pid, start }
    }

    /// The name of its instance.
    pub fn name(&self) -> String {
        format!("{PREFIX}-{}-{}", self.pid, self.start)
    }

    /// The owner of an instance of this name. `None` if it is not one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (pid, start) = name
            .strip_prefix(PREFIX)?
            .strip_prefix('-')?
            .split_once('-')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }

    /// Whether the process lives.
    pub fn lives(&self, proc: &Path) -> bool {
        start(proc, self.pid) == Some(self.start)
    }
}

/// When a process has started (proc(5), /proc/PID/stat, field 22). `None` if it runs no more: one
/// that has ended stays in /proc as a zombie (Z) or dead (X) until its parent waits for it.
fn start(proc: &Path, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name of the program may have spaces and parentheses.
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn an_owner_is_told_by_number_and_start() {
        let own = Owner::own();
        assert_ne!(own.start, 0);
        assert_eq!(Owner::parse(&own.name()), Some(own));
        let proc = Path::new("/proc");
        assert!(own.lives(proc));
        let other = Owner {
            start: own.start + 1,
            ..own
        };
        assert!(!other.lives(proc));
        let mut child = Command::new("true").spawn().unwrap();
        let stat = proc.join(child.id().to_string()).join("stat");
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            thread::yield_now();
        }
        assert_eq!(start(proc, child.id()), None, "a zombie runs no more");
        child.wait().unwrap();
        for name in [
            "",
            "mini-vmm-trace",
            "mini-vmm-trace-1",
            "mini-vmm-trace-x-1",
            "x-1-1",
        ] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
