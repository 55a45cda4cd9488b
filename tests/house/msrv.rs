//! The oldest Rust that this workspace promises (`rust-version`) is the true one: no dependency
//! asks for a newer one, and each document that names a version names this one.
//! Clippy's `incompatible_msrv` does the same for the standard library's functions.

use std::fs;

use serde_json::Value;

use crate::metadata::{is_member, packages, root};

/// The numbers of a version: major, minor and patch, which is 0 if it is left out.
type Version = [u64; 3];

/// Files that tell a person which Rust to install.
const DOCUMENTS: [&str; 3] = ["README.md", "CONTRIBUTING.md", "resources/install-deps.sh"];

fn parse(text: &str) -> Version {
    let mut version = [0; 3];
    for (number, part) in version.iter_mut().zip(text.split('.')) {
        *number = part
            .parse()
            .unwrap_or_else(|_| panic!("{text} is not a version of Rust"));
    }
    version
}

/// The workspace's `rust-version`.
fn ours() -> String {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("read Cargo.toml");
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .expect("Cargo.toml has a rust-version");
    line.trim_matches('"').to_string()
}

/// Packages that ask for a newer Rust than `oldest`, each with the version that it asks for.
fn too_new(packages: &[Value], oldest: Version) -> Vec<String> {
    packages
        .iter()
        .filter_map(|package| {
            let wanted = package["rust_version"].as_str()?;
            (parse(wanted) > oldest).then(|| format!("{} needs Rust {wanted}", package["name"]))
        })
        .collect()
}

#[test]
fn no_dependency_needs_a_newer_rust() {
    let packages = packages();
    let stated = packages.iter().filter(|p| p["rust_version"].is_string());
    assert!(stated.count() > 50, "cargo metadata names no rust-versions");
    assert_eq!(too_new(&packages, parse(&ours())), Vec::<String>::new());
}

#[test]
fn a_dependency_that_needs_a_newer_rust_is_found() {
    let package = |version: &str| serde_json::json!({ "name": "x", "rust_version": version });
    let packages = [
        package("1.88"),
        package("1.88.1"),
        package("1.9.0"),
        Value::Null,
    ];
    assert_eq!(too_new(&packages, parse("1.88")).len(), 1);
    assert_eq!(too_new(&packages, parse("1.88.1")).len(), 0);
    assert_eq!(too_new(&packages, parse("1.8")).len(), 3);
}

#[test]
fn all_members_have_the_workspace_rust_version() {
    let ours = ours();
    for package in packages() {
        if is_member(&package) {
            assert_eq!(
                package["rust_version"],
                ours.as_str(),
                "{}",
                package["name"]
            );
        }
    }
}

#[test]
fn documents_name_the_same_rust() {
    let ours = ours();
    for file in DOCUMENTS {
        let text = fs::read_to_string(root().join(file)).expect(file);
        let named: Vec<&str> = text
            .split("Rust ")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next())
            .map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()))
            .filter(|word| word.starts_with("1."))
            .collect();
        assert!(!named.is_empty(), "{file} names no Rust version");
        assert!(
            named.iter().all(|&version| version == ours),
            "{file} names {named:?}, not {ours}"
        );
    }
}
