//! The words that CONTRIBUTING.md's glossary replaces are gone.

use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use crate::source::root;

/// Words that stand nowhere in code, comments, messages and documents.
const NOWHERE: &[&str] = &[
    "displace",
    "displaced",
    "displaces",
    "fence",
    "fenced",
    "fences",
    "heir",
    "lane",
    "lanes",
    "mend",
    "mended",
    "mending",
    "mends",
    "pace",
    "place",
    "placed",
    "placement",
    "placer",
    "places",
    "placing",
    "pristine",
    "rooms",
    "silence",
    "silenced",
    "silences",
    "spares",
    "surroundings",
    "whoever",
    "wired",
];

/// Words that are the name of nothing in code. In a sentence, and as a part of a longer name, they
/// may stand in their usual sense.
const NO_NAMES: &[&str] = &[
    "account", "alias", "around", "awake", "fired", "gate", "hold", "masters", "notices", "pieces",
    "pinning", "room", "sentence", "served", "settle", "share", "stuck", "taking", "turn",
];

/// Phrases that contain one of the words and stay: English, names of the PCIe specification, and
/// the key of the JSON report.
const KEPT: &[&str] = &[
    "in place of",
    "LANE_MARGIN",
    "Lane margining",
    "lane margining",
    "lane error status",
    "\"place\"",
    "`place`",
];

/// Files that list the words themselves, or what was true of an earlier version.
const LISTS: &[&str] = &["CONTRIBUTING.md", "CHANGELOG.md", "tests/house/words.rs"];

#[test]
fn old_words_are_gone() {
    let mut found = Vec::new();
    for path in texts() {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        for (number, line) in text.lines().enumerate() {
            let kept = KEPT
                .iter()
                .fold(line.to_owned(), |line, kept| line.replace(kept, ""));
            let words = kept
                .split(|c: char| !c.is_ascii_alphanumeric())
                .flat_map(parts);
            for word in words.filter(|word| NOWHERE.contains(&word.as_str())) {
                found.push(format!("{path}:{}: {word}: {}", number + 1, line.trim()));
            }
        }
        if path.ends_with(".rs") {
            let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
            names(tokens, &mut |name, line| {
                let word = name.to_ascii_lowercase();
                if NO_NAMES.contains(&word.as_str()) {
                    found.push(format!("{path}:{line}: {name}"));
                }
            });
        }
    }
    assert!(
        found.is_empty(),
        "{} old words:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn each_old_word_is_in_the_glossary_or_forbidden_for_good_english() {
    let page = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let english = [
        "whoever", "heir", "alias", "account", "settle", "masters", "awake", "stuck",
    ];
    for word in [
        "lanes", "spares", "place", "pace", "taking", "mend", "fence", "wired", "room",
    ] {
        assert!(NOWHERE.contains(&word) || NO_NAMES.contains(&word));
        assert!(
            page.contains(word) || english.contains(&word),
            "{word} is in no row"
        );
    }
}

/// The files that people read, relative to the root.
fn texts() -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new(""), &mut found);
    assert!(found.len() > 300, "only {} files", found.len());
    found.retain(|path| !LISTS.contains(&path.as_str()));
    found
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = folder.join(&name);
        let text = path.to_str().unwrap().to_owned();
        if entry.file_type().unwrap().is_dir() {
            // Fixtures and goldens are what an earlier version wrote.
            if !["target", ".git", "fixtures", "golden"].contains(&name.as_str()) {
                walk(&path, found);
            }
        } else if [".rs", ".sh", ".md", ".toml"]
            .iter()
            .any(|end| text.ends_with(end))
        {
            found.push(text);
        }
    }
}

/// The parts of a word in camel case, in lower case.
fn parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before_lower = false;
    for c in word.chars() {
        if c.is_ascii_uppercase() && before_lower {
            parts.push(String::new());
        }
        before_lower = c.is_ascii_lowercase();
        parts.last_mut().unwrap().push(c.to_ascii_lowercase());
    }
    parts
}

/// Calls `found` with each identifier and its line.
fn names(tokens: TokenStream, found: &mut impl FnMut(&str, usize)) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => found(&ident.to_string(), ident.span().start().line),
            TokenTree::Group(group) => names(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}
