//! Commands that README.md, CONTRIBUTING.md and docs tell a reader to type: mini-vmm's can be
//! parsed, and make's have a target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use mini_vmm::cli::Cli;

/// The documents.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"]
        .map(|name| root.join(name))
        .into();
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|end| end == "md")));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        (name, fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// What stands in a page's shell scripts and between back-ticks, a command each.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Odd parts are blocks, whose first line names the language.
    for (number, part) in page.split("```").enumerate() {
        if number % 2 == 1 {
            if let Some(script) = part.strip_prefix("sh\n") {
                let script = script.replace("\\\n", " ");
                found.extend(script.lines().map(|line| line.trim().to_owned()));
            }
            continue;
        }
        let joined = part.split_whitespace().collect::<Vec<_>>().join(" ");
        let spans = joined.split('`').skip(1).step_by(2);
        found.extend(spans.map(str::to_owned));
    }
    found
}

/// The words of a command before its comment, its pipe and its redirections.
fn words(command: &str) -> Vec<&str> {
    let words = command.split_whitespace();
    let words = words.take_while(|word| !matches!(*word, "#" | "|" | "&&" | ">" | "2>" | "&"));
    let words = words.filter(|word| !word.contains("<>"));
    let words = words.map(|word| word.trim_end_matches(';').trim_matches(['"', '\'']));
    words
        .skip_while(|word| matches!(*word, "sudo" | "exec"))
        .collect()
}

/// Whether a reader must replace a part of the command, or the rest is left out.
fn is_abridged(command: &str) -> bool {
    command.contains('…') || command.contains("...") || command.contains("[,")
}

/// What is wrong with a command of which only the name is given.
const NAMES: [ErrorKind; 2] = [
    ErrorKind::MissingRequiredArgument,
    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
];

/// The form of `ctl`'s commands, the first line of a record, and the benchmark's name of a ratio.
const OTHERS: [&str; 3] = [
    "mini-vmm ctl PATH VERB",
    "mini-vmm record 1",
    "mini-vmm again to mini-vmm",
];

#[test]
fn each_command_can_be_parsed() {
    let mut seen = BTreeSet::new();
    let mut bad = Vec::new();
    for (name, page) in documents() {
        for command in commands(&page) {
            let words = words(&command);
            // The program's name alone, or of a file.
            if words.first() != Some(&"mini-vmm") || words.len() < 2 || is_abridged(&command) {
                continue;
            }
            seen.insert(words[1].to_owned());
            let Err(e) = Cli::try_parse_from(&words) else {
                continue;
            };
            // A command's name alone, without what it needs, or a command that prints help.
            let named = words.len() == 2 && NAMES.contains(&e.kind());
            if named || e.exit_code() == 0 || OTHERS.contains(&command.as_str()) {
                continue;
            }
            let why = e.to_string();
            let why = why.lines().next().unwrap_or_default();
            bad.push(format!("{name}: {command}: {why}"));
        }
    }
    assert!(bad.is_empty(), "cannot be parsed:\n{}", bad.join("\n"));
    for kind in ["host", "explain", "ctl", "--kernel"] {
        assert!(
            seen.contains(kind),
            "no document has `mini-vmm {kind}`: {seen:?}"
        );
    }
}

#[test]
fn each_make_target_exists() {
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile");
    let makefile = fs::read_to_string(makefile).unwrap();
    let targets = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name);
    let targets: BTreeSet<_> = targets.collect();
    let (mut bad, mut count) = (Vec::new(), 0);
    for (name, page) in documents() {
        for command in commands(&page) {
            let words = words(&command);
            // Settings may stand before make, as BENCH=1.
            let at = words.iter().position(|word| *word == "make");
            let before = at.map_or(&[][..], |at| &words[..at]);
            let Some(at) = at.filter(|_| before.iter().all(|word| word.contains('='))) else {
                continue;
            };
            let named = words[at + 1..].iter().filter(|word| !word.contains('='));
            for target in named {
                count += 1;
                if !targets.contains(target) {
                    bad.push(format!("{name}: {command}: there is no target {target}"));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(count > 10, "only {count} targets");
}
