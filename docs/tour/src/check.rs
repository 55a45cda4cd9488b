//! The exercises: each is a file with a gap, and a check that says in a sentence what to look at
//! next.

mod answer;
mod assembled;
mod back;
mod binding;
mod calls;
mod counts;
mod dma;
mod driver;
mod exits;
mod initrd;
mod machine;
mod memory;
mod message;
mod order;
mod pci;
mod registers;
mod slices;

use std::path::Path;

use crate::check::answer::read;
use crate::commands::{Commands, Output};
use crate::lab;
use crate::stable::Stable;

/// An exercise.
pub struct Exercise {
    /// Its chapter.
    pub chapter: u32,
    /// The file with the gap, in docs/tour/exercises/N.
    pub gap: &'static str,
    /// How an answer is checked. The error is what to tell the reader.
    pub check: Check,
}

/// Checks an answer.
#[derive(Clone, Copy)]
pub enum Check {
    /// On this machine.
    Here(fn(&Path) -> Result<(), String>),
    /// In the emulated machine: the command that tries an answer's text there, and the verdict on
    /// what the command prints.
    InLab(fn(&str) -> String, fn(&Output) -> Result<(), String>),
}

impl Exercise {
    /// Checks an answer.
    ///
    /// # Errors
    /// What to look at next.
    pub fn check(&self, answer: &Path, programs: &Commands) -> Result<(), String> {
        let (command, verdict) = match self.check {
            Check::Here(check) => {
                programs.build()?;
                return check(answer);
            }
            Check::InLab(command, verdict) => (command, verdict),
        };
        let text = read(answer)?;
        let limited = (command(&text), lab::FOR_ANSWER);
        let outputs = lab::run(&[limited], &Stable::nothing(), programs)?;
        outputs.iter().try_for_each(verdict)
    }
}

/// All exercises.
pub const EXERCISES: [Exercise; 14] = [
    Exercise {
        chapter: 1,
        gap: "gap.sh",
        check: Check::InLab(binding::command, binding::verdict),
    },
    Exercise {
        chapter: 2,
        gap: "gap.s",
        check: Check::Here(machine::check),
    },
    Exercise {
        chapter: 3,
        gap: "gap.s",
        check: Check::Here(memory::check),
    },
    Exercise {
        chapter: 4,
        gap: "gap.s",
        check: Check::Here(exits::check),
    },
    Exercise {
        chapter: 5,
        gap: "gap.s",
        check: Check::Here(pci::check),
    },
    Exercise {
        chapter: 6,
        gap: "gap.txt",
        check: Check::InLab(calls::command, calls::verdict),
    },
    Exercise {
        chapter: 7,
        gap: "gap.txt",
        check: Check::InLab(dma::command, dma::verdict),
    },
    Exercise {
        chapter: 8,
        gap: "gap.s",
        check: Check::InLab(registers::command, registers::verdict),
    },
    Exercise {
        chapter: 9,
        gap: "gap.s",
        check: Check::InLab(message::command, message::verdict),
    },
    Exercise {
        chapter: 10,
        gap: "gap.s",
        check: Check::Here(initrd::check),
    },
    Exercise {
        chapter: 11,
        gap: "gap.sh",
        check: Check::InLab(back::command, back::verdict),
    },
    Exercise {
        chapter: 12,
        gap: "gap.txt",
        check: Check::Here(counts::check),
    },
    Exercise {
        chapter: 13,
        gap: "gap.sh",
        check: Check::InLab(slices::command, slices::verdict),
    },
    Exercise {
        chapter: 14,
        gap: "gap.txt",
        check: Check::Here(order::check),
    },
];

/// The sentence that a wrong answer must get, from its first lines: after `# Gets: `, and on lines
/// that begin with `#` and two spaces.
pub fn wanted(answer: &str) -> Option<String> {
    let mut lines = answer.lines();
    let first = lines.find_map(|line| line.strip_prefix("# Gets: "))?;
    let more = lines.map_while(|line| line.strip_prefix("#  "));
    Some(more.fold(first.to_owned(), |text, line| format!("{text} {line}")))
}

/// The exercise of a chapter.
pub fn exercise(chapter: u32) -> Option<&'static Exercise> {
    EXERCISES
        .iter()
        .find(|exercise| exercise.chapter == chapter)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use std::fs;

    use super::answer::quoted;
    use super::*;
    use crate::commands::Output;

    /// What a shell prints.
    fn says(command: &str) -> String {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_text_of_the_reader_is_one_word_for_the_shell() {
        for text in ["", "it's \"$HOME\" \\n `id`", "''", "two\nlines"] {
            assert_eq!(says(&format!("printf %s {}", quoted(text))), text);
        }
    }

    /// An address that no device can have is told without the emulated machine.
    #[test]
    fn addresses_that_are_none_are_told() {
        for (answer, told) in [
            ("from 0xffffffffffffffff\nto 0x200000", "more than 28 bits"),
            ("from it's\nto 0x200000", "`from it's` has no number yet"),
            ("to 0x200000", "`from ` has no number yet"),
        ] {
            let text = says(&dma::command(answer));
            let output = Output { text, status: 0 };
            let why = dma::verdict(&output).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }

    #[test]
    fn each_call_is_made_once() {
        let text = "container: done\ngroup: done\njoin: done\niommu: done\ndevice: done\n\
                    read: 0x010000ed\n";
        let verdict = |text: String| calls::verdict(&Output { text, status: 0 });
        verdict(text.into()).unwrap();
        let why = verdict(format!("{text}read: 0x010000ed\n")).unwrap_err();
        assert!(why.starts_with("`read` is made twice"), "{why}");
    }

    #[test]
    fn a_file_is_read_with_the_ends_of_lines_of_any_system() {
        let file = std::env::temp_dir().join(format!("tour-read-{}", std::process::id()));
        fs::write(&file, "a\r\nb\n").unwrap();
        let text = read(&file).unwrap();
        fs::write(&file, b"a\xff").unwrap();
        let why = read(&file).unwrap_err();
        fs::remove_file(&file).unwrap();
        assert_eq!(text, "a\nb\n");
        assert!(why.contains("save the file as UTF-8"), "{why}");
    }
}
