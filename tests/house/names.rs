//! What a document can name: the files of the source tree, the targets of make and cargo, and the
//! names of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::metadata;

/// Names that exist.
#[derive(Debug, Default)]
pub struct Names {
    /// Files and folders, relative to the root; folders without a slash at the end.
    pub paths: BTreeSet<String>,
    /// Targets of the Makefile.
    pub make: BTreeSet<String>,
    /// Packages of the workspace.
    pub packages: BTreeSet<String>,
    /// Test, example and program targets of the packages, as `test NAME`.
    pub targets: BTreeSet<String>,
    /// Names of tests by the word that docs/rules.md has for their kind, as cargo prints them.
    pub tests: BTreeMap<&'static str, Vec<String>>,
}

/// Where the tests of each kind are. Those of the lab are registered under a string.
const KINDS: [(&str, &str); 5] = [
    ("unit", "src/"),
    ("cli", "tests/cli/"),
    ("guest", "tests/guests/"),
    ("house", "tests/house/"),
    ("lab", "integration/tests/lab/"),
];

impl Names {
    /// The names of this source tree.
    pub fn read() -> Self {
        let root = metadata::root();
        let mut names = Self::default();
        walk(root, "", &mut names.paths);
        let makefile = fs::read_to_string(root.join("Makefile")).expect("read the Makefile");
        names.make = make_targets(&makefile);
        for package in metadata::packages()
            .iter()
            .filter(|p| metadata::is_member(p))
        {
            names.packages.insert(string(&package["name"]));
            for target in package["targets"].as_array().expect("targets") {
                let kind = string(&target["kind"][0]);
                names
                    .targets
                    .insert(format!("{kind} {}", string(&target["name"])));
            }
        }
        for path in names.paths.iter().filter(|path| path.ends_with(".rs")) {
            let Some((kind, folder)) = KINDS.iter().find(|(_, folder)| path.starts_with(folder))
            else {
                continue;
            };
            let text = fs::read_to_string(root.join(path)).expect(path);
            let module = module(&path[folder.len()..]);
            let tests = tests_in(kind, &text);
            names
                .tests
                .entry(kind)
                .or_default()
                .extend(tests.into_iter().map(|test| format!("{module}::{test}")));
        }
        names
    }

    /// Whether a filter of `cargo test` selects a test of this kind, or of any without a kind.
    pub fn has_test(&self, kind: Option<&str>, filter: &str) -> bool {
        self.tests
            .iter()
            .filter(|(have, _)| kind.is_none_or(|kind| kind == **have))
            .any(|(_, tests)| tests.iter().any(|test| test.contains(filter)))
    }
}

fn string(value: &serde_json::Value) -> String {
    value.as_str().expect("a string").to_string()
}

/// Adds all paths below `root/folder`, except those that are built and those of git.
fn walk(root: &Path, folder: &str, paths: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root.join(folder)).expect(folder) {
        let entry = entry.expect(folder);
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        if folder.is_empty() && (name == "target" || name == ".git") {
            continue;
        }
        let path = format!("{folder}{name}");
        if entry.file_type().expect(&path).is_dir() {
            walk(root, &format!("{path}/"), paths);
        }
        paths.insert(path);
    }
}

/// A line such as `unit: deps-build ## all tests` has a target.
fn make_targets(makefile: &str) -> BTreeSet<String> {
    makefile
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, rest)| !rest.starts_with('='))
        .map(|(target, _)| target.to_string())
        .collect()
}

/// `vfio::bar` for `vfio/bar.rs` and for `vfio/bar/mod.rs`.
fn module(path: &str) -> String {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.replace('/', "::")
}

fn tests_in(kind: &str, text: &str) -> Vec<String> {
    match kind {
        "lab" => strings(text),
        // The guests' harness has its own registry, of functions without arguments.
        "guest" => functions(text.lines().filter(|line| line.contains("() {"))),
        _ => functions(text.split("#[test]").skip(1).filter_map(|rest| {
            rest.lines()
                .find(|line| line.trim_start().starts_with("fn "))
        })),
    }
}

/// The names in lines such as `fn name() {`.
fn functions<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines
        .filter_map(|line| {
            line.trim_start()
                .trim_start_matches("pub ")
                .strip_prefix("fn ")
        })
        .filter_map(|rest| rest.split('(').next())
        .map(str::to_string)
        .collect()
}

/// String literals that can be the name of a scenario.
fn strings(text: &str) -> Vec<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split('"')
        .filter(|literal| literal.len() > 3 && literal.chars().all(fits))
        .map(str::to_string)
        .collect()
}
