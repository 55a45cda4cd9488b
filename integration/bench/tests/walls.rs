//! The walls of the library: only the side of the lab knows the lab, so that the rest can be made
//! into a program for any host.

use std::fs;
use std::path::{Path, PathBuf};

/// Files and folders that may use the crate `lab`; the programs in `bin` are no part of the
/// library.
const LAB_SIDE: [&str; 3] = ["command.rs", "in_lab", "bin"];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources can be listed") {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Lines that are no comment and name the crate or the side of the library that uses it.
fn uses(text: &str) -> Vec<&str> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| ["lab::", "in_lab"].iter().any(|word| has_word(line, word)))
        .collect()
}

/// Whether a word stands in a line, and is not the end of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    })
}

#[test]
fn only_the_side_of_the_lab_uses_the_lab() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    let (mut inside, mut outside) = (0, Vec::new());
    for path in &all {
        let text = fs::read_to_string(path).expect("a source can be read");
        let short = path.strip_prefix(&source).expect("it is a source");
        let declared = short == Path::new("lib.rs");
        for line in uses(&text) {
            if LAB_SIDE.iter().any(|known| short.starts_with(known)) {
                inside += 1;
            } else if !(declared && line == "pub mod in_lab;") {
                outside.push(format!("{}: {}", short.display(), line.trim()));
            }
        }
    }
    assert!(inside > 10, "the side of the lab was not found");
    assert!(outside.is_empty(), "{}", outside.join("\n"));
}

#[test]
fn a_use_of_the_lab_is_seen_and_other_words_are_not() {
    assert_eq!(uses("use lab::host;\n// use lab::host;\n").len(), 1);
    assert_eq!(uses("    crate::in_lab::run();").len(), 1);
    assert!(uses("let x = collab::y; // lab").is_empty());
}
