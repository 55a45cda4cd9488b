//! The exercises: each is a file with a gap, and a check that says in a sentence what to look at
//! next.

mod assembled;
mod exits;
mod machine;
mod memory;
mod pci;

use std::path::Path;

/// An exercise.
pub struct Exercise {
    /// Its chapter.
    pub chapter: u32,
    /// The file with the gap, in docs/tour/exercises/N.
    pub gap: &'static str,
    /// Checks an answer. The error is what to tell the reader.
    pub check: fn(&Path) -> Result<(), String>,
}

/// All exercises.
pub const EXERCISES: [Exercise; 4] = [
    Exercise {
        chapter: 2,
        gap: "gap.s",
        check: machine::check,
    },
    Exercise {
        chapter: 3,
        gap: "gap.s",
        check: memory::check,
    },
    Exercise {
        chapter: 4,
        gap: "gap.s",
        check: exits::check,
    },
    Exercise {
        chapter: 5,
        gap: "gap.s",
        check: pci::check,
    },
];

/// The exercise of a chapter.
pub fn exercise(chapter: u32) -> Option<&'static Exercise> {
    EXERCISES
        .iter()
        .find(|exercise| exercise.chapter == chapter)
}
