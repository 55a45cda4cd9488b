//! The lines of L1's serial port, each with its writer and its time. There are four writers: L1's
//! shell, the lab's functions in that shell, mini-vmm, and the guest.

use std::time::Duration;

/// The writer of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A lab function or the L1 script: "LAB: ".
    Lab,
    /// The guest's serial console, which is mini-vmm's standard output: "L2| ".
    Guest,
    /// mini-vmm's standard error: "VMM| ".
    Vmm,
    /// Anything else on L1.
    L1,
}

/// A line without its prefix.
#[derive(Clone, Debug)]
pub struct Line {
    /// The time since QEMU was started.
    pub at: Duration,
    /// The writer.
    pub from: Speaker,
    /// The text.
    pub text: String,
}

impl Line {
    /// Parses a raw line. The line's prefix names the writer.
    pub fn new(at: Duration, raw: &str) -> Self {
        let raw = raw.trim_end();
        let (from, text) = [
            ("LAB: ", Speaker::Lab),
            ("L2| ", Speaker::Guest),
            ("VMM| ", Speaker::Vmm),
        ]
        .into_iter()
        .find_map(|(prefix, from)| Some((from, raw.strip_prefix(prefix)?)))
        .unwrap_or((Speaker::L1, raw));
        Self {
            at,
            from,
            text: text.to_owned(),
        }
    }
}

/// All lines of a machine.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// The lines, in the order in which they arrived.
    pub lines: Vec<Line>,
}

impl Transcript {
    /// The facts that the lab's functions printed with this key: `lab("exit")` gives "0" for "LAB:
    /// exit 0".
    pub fn lab<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        facts(&self.lines, Speaker::Lab, "", key)
    }

    /// The runs of mini-vmm that `start_vmm` and similar functions started in L1.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let starts: Vec<usize> = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.from == Speaker::Lab && line.text.starts_with("run "))
            .map(|(i, _)| i)
            .collect();
        let mut case = "";
        let mut seen = 0;
        starts
            .iter()
            .enumerate()
            .map(|(n, &start)| {
                let end = starts.get(n + 1).copied().unwrap_or(self.lines.len());
                if let Some(name) = facts(&self.lines[seen..start], Speaker::Lab, "", "case").last()
                {
                    case = name;
                }
                seen = start;
                Run {
                    case,
                    lines: &self.lines[start..end],
                }
            })
            .collect()
    }
}

/// One run of mini-vmm: all lines from its start up to the start of the next run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The name that the function `bad` gave to the run; otherwise empty.
    pub case: &'a str,
    /// The lines.
    pub lines: &'a [Line],
}

impl<'a> Run<'a> {
    /// The command line.
    pub fn command(&self) -> &'a str {
        self.lab("run").next().unwrap_or("")
    }

    /// The facts that the lab's functions printed with this key.
    pub fn lab(&self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        facts(self.lines, Speaker::Lab, "", key)
    }

    /// The facts that the guest's /init printed with this key: `guest("cpus")` gives "4" for "L2:
    /// cpus 4".
    pub fn guest(&self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        facts(self.lines, Speaker::Guest, "L2: ", key)
    }

    /// The exit status in L1's shell.
    pub fn exit(&self) -> Option<i32> {
        self.lab("exit").next()?.parse().ok()
    }

    /// mini-vmm's standard error.
    pub fn messages(&self) -> impl Iterator<Item = &'a str> + 'a {
        self.lines
            .iter()
            .filter(|line| line.from == Speaker::Vmm)
            .map(|line| line.text.as_str())
    }

    /// mini-vmm's standard output: the output of a command, or the guest's console.
    pub fn output(&self) -> String {
        let lines = self.lines.iter().filter(|line| line.from == Speaker::Guest);
        lines.map(|line| format!("{}\n", line.text)).collect()
    }

    /// The codes of what the guest had less of, in the warnings of mini-vmm: sorted, each once.
    pub fn degraded(&self) -> Vec<&'a str> {
        let mut codes: Vec<_> = self.messages().filter_map(code_of).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// Whether the guest reached its /init.
    pub fn reached_init(&self) -> bool {
        self.guest("init").next().is_some()
    }
}

/// The code in a line such as "warning: ...: why [no-reset]; hint: what to do".
fn code_of(line: &str) -> Option<&str> {
    let (before, _) = line.split_once("]; hint: ")?;
    Some(before.rsplit_once(" [")?.1)
}

fn facts<'a>(
    lines: &'a [Line],
    from: Speaker,
    prefix: &'a str,
    key: &'a str,
) -> impl Iterator<Item = &'a str> + 'a {
    lines
        .iter()
        .filter(move |line| line.from == from)
        .filter_map(move |line| {
            let rest = line.text.strip_prefix(prefix)?.strip_prefix(key)?;
            if rest.is_empty() {
                Some(rest)
            } else {
                rest.strip_prefix(' ')
            }
        })
}

/// The value of `name=` in a fact such as "nvme0 before=3 after=9". A space ends the value.
pub fn value<'a>(fact: &'a str, name: &str) -> Option<&'a str> {
    fact.split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The number in `name=`.
pub fn number(fact: &str, name: &str) -> Option<u64> {
    value(fact, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(text: &str) -> Transcript {
        Transcript {
            lines: text
                .lines()
                .map(|raw| Line::new(Duration::ZERO, raw))
                .collect(),
        }
    }

    #[test]
    fn runs_are_told_apart() {
        let t = transcript(
            "LAB: case first\nLAB: run mini-vmm a\nVMM| error: no\r\nLAB: exit 1\n\
             LAB: case second\nLAB: run mini-vmm b\nL2| L2: init 6.1 after 1 s\n\
             L2| L2: cpus 4\nLAB: exit 0\nLAB: script 0",
        );
        let runs = t.runs();
        assert_eq!(runs.len(), 2);
        assert_eq!((runs[0].case, runs[0].exit()), ("first", Some(1)));
        assert_eq!(runs[0].messages().collect::<Vec<_>>(), ["error: no"]);
        assert!(!runs[0].reached_init());
        assert_eq!((runs[1].case, runs[1].exit()), ("second", Some(0)));
        assert_eq!(runs[1].guest("cpus").next(), Some("4"));
        assert!(runs[1].reached_init());
        assert_eq!(t.lab("script").next(), Some("0"));
    }

    #[test]
    fn codes_are_in_brackets_before_the_hint() {
        let t = transcript(
            "LAB: run mini-vmm a\nVMM| WARN 0000:01:00.0: not reset: why [x] [no-reset]; hint: a\n\
             VMM| WARN other: a [bar-trapped]; hint: b [c]; hint: d\nVMM| WARN plain [no-code]\n\
             VMM| WARN 0000:01:00.1: not reset: why [no-reset]; hint: a\nL2| x [y]; hint: z",
        );
        assert_eq!(t.runs()[0].degraded(), ["bar-trapped", "no-reset"]);
    }

    #[test]
    fn a_key_is_a_whole_word() {
        let t = transcript("LAB: backwards x\nLAB: back 0000:00:05.0 driver=nvme");
        assert_eq!(t.lab("back").count(), 1);
        assert_eq!(value(t.lab("back").next().unwrap(), "driver"), Some("nvme"));
        assert_eq!(number("nvme0 before=3 after=9", "after"), Some(9));
    }
}
