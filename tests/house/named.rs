//! Every file, test and make target that a document names exists.

use std::collections::BTreeSet;
use std::fs;

use crate::metadata::root;
use crate::names::Names;

/// Folders of the root. A word that starts with one of them and a slash is a path.
const FOLDERS: [&str; 7] = [
    "src",
    "tests",
    "integration",
    "docs",
    "resources",
    ".ci",
    ".github",
];

/// A document, and where its relative links start.
#[derive(Debug)]
struct Document {
    path: String,
    text: String,
}

impl Document {
    fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).expect(path);
        let text = if path.ends_with(".rs") {
            crate_documentation(&text)
        } else {
            text
        };
        Self {
            path: path.to_string(),
            text,
        }
    }

    /// Markdown links to files. Those of the crate documentation are checked by rustdoc.
    fn links(&self) -> Vec<&str> {
        if self.path.ends_with(".rs") {
            return Vec::new();
        }
        self.text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|link| !link.contains("://"))
            .collect()
    }

    /// The file that a relative link leads to.
    fn resolve(&self, link: &str) -> String {
        let mut parts: Vec<&str> = self.path.split('/').collect();
        parts.pop();
        for part in link.trim_end_matches('/').split('/') {
            match part {
                ".." => _ = parts.pop(),
                "." => (),
                part => parts.push(part),
            }
        }
        parts.join("/")
    }

    /// Code: spans in backquotes, and the lines of code blocks.
    fn code(&self) -> Vec<&str> {
        let mut code = Vec::new();
        for (i, part) in self.text.split("```").enumerate() {
            if i % 2 == 1 {
                code.extend(part.lines().skip(1).map(str::trim));
            } else {
                code.extend(spans(part));
            }
        }
        code
    }
}

/// The text of the `//!` lines.
fn crate_documentation(source: &str) -> String {
    let lines = source.lines().filter_map(|line| line.strip_prefix("//!"));
    lines.collect::<Vec<&str>>().join("\n")
}

/// What stands between backquotes.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The documents whose names are checked.
fn documents(names: &Names) -> Vec<Document> {
    let is_crate = |path: &str| path.starts_with("src/") && path.ends_with("/lib.rs");
    names
        .paths
        .iter()
        .filter(|path| {
            ["README.md", "CONTRIBUTING.md", "SECURITY.md"].contains(&path.as_str())
                || path.starts_with("docs/") && path.ends_with(".md")
                || is_crate(path)
        })
        .map(|path| Document::read(path))
        .collect()
}

/// What a document names and the tree lacks, a line each.
fn missing(document: &Document, names: &Names) -> Vec<String> {
    let mut missing = Vec::new();
    missing.extend(missing_links(document, names));
    missing.extend(missing_paths(document, names));
    for code in document.code() {
        missing.extend(missing_target(code, names));
        missing.extend(missing_cargo(code, names));
        missing.extend(missing_file_name(code, names));
        if code.ends_with("::") && !code.contains(' ') && !names.has_test(None, code) {
            missing.push(format!("tests {code}"));
        }
    }
    missing.extend(rows(&document.text).flat_map(|row| missing_in_row(row, names)));
    let mut seen = BTreeSet::new();
    missing.retain(|line| seen.insert(line.clone()));
    missing
        .iter()
        .map(|line| format!("{}: {line}", document.path))
        .collect()
}

fn missing_links(document: &Document, names: &Names) -> Vec<String> {
    let mut missing = Vec::new();
    for link in document.links() {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let path = if file.is_empty() {
            document.path.clone()
        } else {
            document.resolve(file)
        };
        if !names.paths.contains(&path) {
            missing.push(format!("link {link}"));
        } else if !heading.is_empty() && !has_heading(&path, heading) {
            missing.push(format!("heading {link}"));
        }
    }
    missing
}

/// Whether a Markdown file has this heading, in the form that links have.
fn has_heading(path: &str, anchor: &str) -> bool {
    let text = fs::read_to_string(root().join(path)).expect(path);
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|&c| c.is_alphanumeric() || "-_ ".contains(c));
            kept.collect::<String>().replace(' ', "-") == anchor
        })
}

/// Words that start with a folder of the root, wherever they are in the text.
fn missing_paths(document: &Document, names: &Names) -> Vec<String> {
    let part_of_path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    document
        .text
        .split(|c| !part_of_path(c))
        .filter(|word| {
            let folder = word.split_once('/').map_or("", |(folder, _)| folder);
            FOLDERS.contains(&folder)
        })
        .map(|word| word.trim_end_matches(['.', '/']))
        .filter(|&path| !names.paths.contains(path))
        .map(|path| format!("path {path}"))
        .collect()
}

/// `mod.rs` or `deny.toml`: a file of this name is somewhere in the tree.
fn missing_file_name(code: &str, names: &Names) -> Option<String> {
    let (stem, extension) = code.rsplit_once('.')?;
    let document = extension == "md" && stem.chars().all(|c| c.is_ascii_uppercase());
    if !document && !["rs", "sh", "toml"].contains(&extension) {
        return None;
    }
    if stem.is_empty()
        || !stem
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    {
        return None;
    }
    let there = names
        .paths
        .iter()
        .any(|path| path.rsplit('/').next() == Some(code));
    (!there).then(|| format!("file {code}"))
}

/// `make unit` or `BENCH=1,3 make bench`.
fn missing_target(code: &str, names: &Names) -> Option<String> {
    let mut words = code
        .split_whitespace()
        .skip_while(|word| word.contains('='));
    if words.next()? != "make" {
        return None;
    }
    let target = words.find(|word| !word.contains('='))?;
    let a_name = target.starts_with(|c: char| c.is_ascii_lowercase());
    (a_name && !names.make.contains(target)).then(|| format!("make target {target}"))
}

/// The packages, targets and tests of a command such as `cargo test -p lab two_disks`.
fn missing_cargo(code: &str, names: &Names) -> Vec<String> {
    let mut missing = Vec::new();
    let Some(rest) = code.strip_prefix("cargo ") else {
        return missing;
    };
    let mut kind = None;
    let command = rest.split(['#', '&', ';']).next().unwrap_or("");
    let mut words = command.split_whitespace().take_while(|&word| word != "--");
    let test = words.next() == Some("test");
    while let Some(word) = words.next() {
        match word {
            "-p" | "--package" => {
                let name = words.next().unwrap_or("");
                if name == "lab" {
                    kind = Some("lab");
                }
                if !names.packages.contains(name) {
                    missing.push(format!("package {name}"));
                }
            }
            "--test" | "--example" | "--bin" => {
                let target = format!("{} {}", &word[2..], words.next().unwrap_or(""));
                kind = match target.as_str() {
                    "test guests" => Some("guest"),
                    "test cli" => Some("cli"),
                    "test house" => Some("house"),
                    _ => kind,
                };
                if !names.targets.contains(&target) {
                    missing.push(format!("target {target}"));
                }
            }
            "--lib" => kind = Some("unit"),
            // Capitals stand for a name of the reader's.
            filter if test && filter.starts_with(|c: char| c.is_ascii_lowercase()) => {
                let there = names.has_test(kind, filter);
                missing.extend((!there).then(|| format!("test {filter}")));
            }
            _ => (),
        }
    }
    missing
}

/// Rows of tables whose last column is "shown by", as cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let mut shown = false;
    text.lines().filter_map(move |line| {
        let Some(row) = line.strip_prefix('|') else {
            shown = false;
            return None;
        };
        let cells: Vec<&str> = row
            .trim_end_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if cells.last() == Some(&"shown by") {
            shown = true;
            return None;
        }
        (shown && !row.starts_with(" ---")).then_some(cells)
    })
}

/// The last cell has tests, each after the word for its kind; the one before has files, each with
/// names that are in it.
fn missing_in_row(cells: Vec<&str>, names: &Names) -> Vec<String> {
    let mut missing = Vec::new();
    for (kind, test) in tests_of(&cells) {
        if kind.is_none() || !names.has_test(kind, test) {
            missing.push(format!("{} test {test}", kind.unwrap_or("no kind of")));
        }
    }
    let [.., files, _] = cells[..] else {
        return missing;
    };
    let mut text = String::new();
    for span in spans(files) {
        if span.contains(['/', '.']) {
            text = fs::read_to_string(root().join(span)).unwrap_or_default();
        } else if !text.is_empty() && !text.contains(span) {
            missing.push(format!("name {span} in its file"));
        }
    }
    missing
}

/// The tests that a row names, with the word for their kind.
fn tests_of<'a>(cells: &[&'a str]) -> Vec<(Option<&'static str>, &'a str)> {
    let kinds = ["unit", "cli", "guest", "house", "lab"];
    let mut tests = Vec::new();
    let mut kind = None;
    for (i, part) in cells.last().unwrap_or(&"").split('`').enumerate() {
        if i % 2 == 0 {
            for word in part.split(|c: char| !c.is_ascii_lowercase()) {
                kind = kinds.into_iter().find(|&kind| kind == word).or(kind);
            }
        } else if !part.contains('/') {
            tests.push((kind, part));
        }
    }
    tests
}

#[test]
fn all_that_documents_name_exists() {
    let names = Names::read();
    let documents = documents(&names);
    let missing: Vec<String> = documents.iter().flat_map(|d| missing(d, &names)).collect();
    assert!(
        missing.is_empty(),
        "named, but not there:\n{}",
        missing.join("\n")
    );
}

/// The documents are found, and the names in them: an empty list would pass the test above.
#[test]
fn documents_name_something() {
    let names = Names::read();
    let documents = documents(&names);
    for path in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/rules.md",
        "src/lib.rs",
    ] {
        assert!(documents.iter().any(|d| d.path == path), "{path}");
    }
    let rules = Document::read("docs/rules.md");
    let tests = rows(&rules.text).flat_map(|row| tests_of(&row)).count();
    assert!(tests > 60, "docs/rules.md names {tests} tests");
    let nothing = missing(&rules, &Names::default());
    assert!(nothing.len() > 100, "{nothing:?}");
    for (kind, least) in [("unit", 200), ("cli", 30), ("guest", 50), ("lab", 40)] {
        let found = names.tests[kind].len();
        assert!(found > least, "{found} tests of the kind {kind}");
    }
}

#[test]
fn each_kind_of_missing_name_is_found() {
    let names = Names::read();
    let text = "\
        See src/none.rs, `none.toml` and [this](docs/none.md) or [that](README.md#none).\n\
        `make none`, `cargo test -p none`, `cargo test --test none`, `nosuch::`,\n\
        `cargo test -p lab none_such`.\n\
        There are `make unit`, `cargo test --test guests NAME`, [these](docs/rules.md)\n\
        and tests/house/.\n\
        | # | what | where | shown by |\n\
        | - | - | - | - |\n\
        | 1 | x | `src/lib.rs` (`NoneSuch`) | unit `no_such_test`; lab `nvme_`; `nvme_` |\n";
    let document = Document {
        path: "README.md".to_string(),
        text: text.to_string(),
    };
    let expected = [
        "link docs/none.md",
        "heading README.md#none",
        "path src/none.rs",
        "path docs/none.md",
        "file none.toml",
        "make target none",
        "package none",
        "target test none",
        "tests nosuch::",
        "test none_such",
        "unit test no_such_test",
        "name NoneSuch in its file",
    ];
    let expected = expected.map(|name| format!("README.md: {name}"));
    assert_eq!(missing(&document, &names), expected);
}
