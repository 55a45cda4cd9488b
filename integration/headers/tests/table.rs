//! The table in the tree is what the headers give.

mod common;

use std::collections::HashMap;

#[test]
fn the_table_is_written_from_the_headers() {
    let Some(kernel) = common::headers() else {
        return;
    };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(headers::TABLE);
    let have = std::fs::read_to_string(path).unwrap();
    let anew = headers::table(&kernel.include, &kernel.version).unwrap();
    if without_version(&have) == without_version(&anew) {
        return;
    }
    // Headers of another version may say more, but a call and its number stay for ever.
    assert_ne!(
        version(&have),
        version(&anew),
        "headers.txt was changed by hand, or its writer was: cargo run -p headers"
    );
    let (have, anew) = (calls(&have), calls(&anew));
    for (name, number) in &have {
        assert_eq!(anew.get(name), Some(number), "{name}");
    }
    println!(
        "headers of {} have {} calls, the table has {}: cargo run -p headers",
        kernel.version,
        anew.len(),
        have.len()
    );
}

fn version(table: &str) -> &str {
    table
        .lines()
        .find_map(|line| line.strip_prefix("linux "))
        .unwrap()
}

fn without_version(table: &str) -> String {
    table.replacen(version(table), "", 1)
}

fn calls(table: &str) -> HashMap<&str, &str> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("call ")?.split_once(' '))
        .collect()
}
