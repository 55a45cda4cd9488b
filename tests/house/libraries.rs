//! The README's table of libraries has a row for each library that the program is linked with.

use std::collections::BTreeSet;
use std::fs;

use crate::metadata::{is_member, packages, root};

/// Libraries that members of this workspace under src/, and the program, are linked with.
fn linked() -> BTreeSet<String> {
    let mut linked = BTreeSet::new();
    for package in packages().iter().filter(|package| is_member(package)) {
        let manifest = package["manifest_path"].as_str().expect("a manifest");
        let below = manifest.strip_prefix(root().to_str().expect("a path in UTF-8"));
        let below = below.expect("a member below the root");
        if below != "/Cargo.toml" && !below.starts_with("/src/") {
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // Dependencies of tests have a kind; crates of this workspace have a path.
            if dependency["kind"].is_null() && dependency["path"].is_null() {
                let name = dependency["name"].as_str().expect("a name");
                linked.insert(name.to_string());
            }
        }
    }
    linked
}

/// The first column of the table whose header starts with "library".
fn listed(readme: &str) -> BTreeSet<String> {
    readme
        .lines()
        .skip_while(|line| !line.starts_with("| library |"))
        .skip(2)
        .map_while(|line| line.strip_prefix('|')?.split('|').next())
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().to_string())
        .collect()
}

#[test]
fn the_readme_lists_each_library() {
    let readme = fs::read_to_string(root().join("README.md")).expect("read README.md");
    assert_eq!(listed(&readme), linked());
}
