//! A guest's write to configuration space visits few files: docs/walks.md keeps within its limits,
//! and names files that exist. That the tables are what a write does is for a debugger to show
//! (tests/guests/walks.py).

use std::collections::BTreeSet;
use std::fs;

use crate::source;

/// Each walk and its limit.
const WALKS: [(&str, usize); 3] = [
    ("a_write_without_effect", 9),
    ("a_write_to_the_device", 11),
    ("the_largest_write", 20),
];

#[test]
fn walks_are_short() {
    let text = fs::read_to_string(source::root().join("docs/walks.md")).unwrap();
    let guests = fs::read_to_string(source::root().join("tests/guests/walks.rs")).unwrap();
    for (name, limit) in WALKS {
        let title = format!("\n## `{name}`: at most {limit} files\n");
        let (_, section) = text.split_once(&title).expect(name);
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let files: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        let distinct: BTreeSet<&str> = files.iter().copied().collect();
        assert_eq!(distinct.len(), files.len(), "{name} names a file twice");
        assert!(
            (1..=limit).contains(&files.len()),
            "{name}: {}",
            files.len()
        );
        for file in files {
            assert!(source::root().join(file).is_file(), "{name} names {file}");
        }
        assert!(
            guests.contains(&format!("fn {name}()")),
            "no guest makes {name}"
        );
    }
}
