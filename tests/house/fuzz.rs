//! Each fuzz target has its program, inputs to begin with, and a bug that it must find; the patch
//! of each bug fits the tree as it is. `make fuzz-seeded` shows that the bugs are found, and `make
//! soak-seeded` the leaks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::metadata::root;

fn dir(name: &str) -> PathBuf {
    root().join("tests/fuzz").join(name)
}

/// The names of a folder's entries, without this ending.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir(folder)).expect(folder);
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| name.strip_suffix(ending).unwrap_or(&name).to_owned())
        .collect()
}

/// The targets: all files but the one that they share.
fn targets() -> BTreeSet<String> {
    let mut targets = names("targets", ".rs");
    assert!(targets.remove("access"));
    targets
}

#[test]
fn each_target_has_inputs_and_a_bug() {
    let targets = targets();
    assert_eq!(names("seeded", ".patch"), targets, "tests/fuzz/seeded");
    assert_eq!(names("corpus", ""), targets, "tests/fuzz/corpus");
    let manifest = fs::read_to_string(dir("Cargo.toml")).unwrap();
    for target in &targets {
        let inputs = fs::read_dir(dir("corpus").join(target)).unwrap();
        assert!(inputs.count() > 0, "{target} has no inputs");
        assert!(manifest.contains(&format!("\"fuzz_{target}\"")), "{target}");
        let patch = fs::read_to_string(dir("seeded").join(format!("{target}.patch"))).unwrap();
        let text = patch.lines().find_map(|line| line.strip_prefix("found: "));
        assert!(text.is_some_and(|text| !text.is_empty()), "{target}");
    }
}

/// All patches of a folder together, as they are applied.
fn fit(folder: &Path) {
    let patches = fs::read_dir(folder).expect("patches");
    let check = Command::new("git")
        .current_dir(root())
        .args(["apply", "--check"])
        .args(patches.map(|patch| patch.unwrap().path()))
        .output()
        .expect("run git");
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{}: {said}", folder.display());
}

#[test]
fn the_patches_of_the_bugs_fit() {
    fit(&dir("seeded"));
    // The leaks that a soak must find.
    fit(&root().join("integration/seeded"));
}
