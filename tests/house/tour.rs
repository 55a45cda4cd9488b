//! What README.md and the crate documentation promise of the reading tour, docs/reading.md: its
//! files exist, it has at most 4,000 lines, and no file of the four paths is forgotten.

use std::collections::BTreeSet;
use std::fs;

use syn::spanned::Spanned;

use crate::source::{is_test, root};

/// The most lines of the tour, without items for tests.
const MOST: usize = 4000;

/// The paths in backticks that begin with `src/` and name a file.
fn files(text: &str) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    let files = words.filter(|word| word.starts_with("src/") && word.ends_with(".rs"));
    files.map(String::from).collect()
}

/// The text from a heading to the next of the same level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text
        .find(heading)
        .unwrap_or_else(|| panic!("there is no `{heading}`"));
    let rest = &text[start + heading.len()..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// The files of the tour in order, and those named as left out.
fn tour() -> (Vec<String>, Vec<String>) {
    let page = fs::read_to_string(root().join("docs/reading.md")).unwrap();
    (
        files(section(&page, "\n## The tour\n")),
        files(section(&page, "\n## Left out\n")),
    )
}

/// Lines of a file without the items that are compiled for tests only.
fn lines_to_read(path: &str) -> usize {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    let tests = parsed.items.iter().filter(|item| is_test(item));
    let lines = tests.map(|item| {
        let span = item.span();
        span.end().line + 1 - span.start().line
    });
    text.lines().count() - lines.sum::<usize>()
}

#[test]
fn the_tour_is_as_long_as_promised() {
    let (tour, _) = tour();
    assert!(tour.len() >= 20, "only {} files", tour.len());
    let unique: BTreeSet<_> = tour.iter().collect();
    assert_eq!(unique.len(), tour.len(), "a file is in it twice");
    let lines: Vec<_> = tour
        .iter()
        .map(|path| (path, lines_to_read(path)))
        .collect();
    let sum: usize = lines.iter().map(|(_, lines)| lines).sum();
    assert!(sum <= MOST, "{sum} lines: {lines:#?}");
}

#[test]
fn lines_of_tests_are_not_counted() {
    let path = "src/pci/addr.rs";
    let text = fs::read_to_string(root().join(path)).unwrap();
    assert!(lines_to_read(path) <= text.lines().count());
    let bar = "src/pci/access.rs";
    let text = fs::read_to_string(root().join(bar)).unwrap();
    let before = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count();
    assert_eq!(lines_to_read(bar), before);
}

#[test]
fn no_file_of_the_four_paths_is_forgotten() {
    let (tour, left_out) = tour();
    let both: Vec<_> = tour.iter().filter(|path| left_out.contains(path)).collect();
    assert!(both.is_empty(), "in the tour and left out: {both:?}");
    for path in tour.iter().chain(&left_out) {
        assert!(root().join(path).is_file(), "{path} does not exist");
    }
    let map = fs::read_to_string(root().join("docs/paths.md")).unwrap();
    let paths = files(&map);
    assert!(paths.len() > 30, "the four paths name only {paths:?}");
    let forgotten: Vec<_> = paths
        .iter()
        .filter(|path| !tour.contains(path) && !left_out.contains(path))
        .collect();
    assert!(
        forgotten.is_empty(),
        "neither in the tour nor left out: {forgotten:#?}"
    );
}
