//! docs/stats.md lists the codes of all losses, and no others.

use std::fs;

use vmm::log::degraded::Code;

use crate::metadata::root;

/// The codes of the table in docs/stats.md, in its order.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/stats.md")).unwrap();
    let (_, rest) = text.split_once("\n| code | ").expect("the table of codes");
    rest.lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `"))
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

#[test]
fn all_codes_are_documented() {
    let mut documented = documented();
    documented.sort();
    let mut codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    codes.sort_unstable();
    assert_eq!(documented, codes, "docs/stats.md, and Code::ALL");
    codes.dedup();
    assert_eq!(codes.len(), Code::ALL.len(), "a name stands for two codes");
    for code in codes {
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(code.chars().all(kebab), "{code}");
    }
}
