//! Every call with a known value in every field. A C program, compiled against the kernel's own
//! headers, fills the structures, says what it has put where, and prints its memory. The decoder
//! reads that memory, and each value must be under its name. So offsets, sizes and numbers come
//! from the C compiler, and the unions and arrays from variants.txt, which is written by hand.

#[path = "../common/mod.rs"]
mod common;
mod fill;
mod find;
mod program;
mod variants;

use std::collections::HashSet;

use trace::decode::calls::{self, Call};

use program::Case;

#[test]
fn each_value_is_found_under_its_name() {
    let Some(kernel) = common::headers() else {
        return;
    };
    let headers = headers::read(&kernel.include).unwrap();
    let layouts = headers.layouts().unwrap();
    let lines = variants::all(&calls());
    let mut text = program::Text::new();
    for line in &lines {
        fill::case(&mut text, line, &layouts);
    }
    let output = program::run(&text.whole(), &kernel.include);
    let cases = program::read(&output);
    assert_eq!(cases.len(), lines.len());
    let (mut values, mut names) = (0, 0);
    let mut wrong = Vec::new();
    for case in &cases {
        values += case.expected.len();
        names += case.names.len();
        wrong.extend(check(case));
    }
    assert!(
        wrong.is_empty(),
        "{} of {values} values:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // All calls were made, with more fields than calls.
    let made: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(made.len(), calls().len());
    assert!(values > 5000 && names > 200, "{values} {names}");
    println!(
        "{} calls in {} cases, {values} values, {names} with names",
        made.len(),
        cases.len()
    );
}

/// What is wrong with a case.
fn check(case: &Case) -> Vec<String> {
    let own = |error: String| format!("{} ({:?}): {error}", case.name, case.kind);
    if calls::name(case.kind, case.number) != Some(&case.name) {
        return vec![own(format!("{:#x} is not known", case.number))];
    }
    let call = Call {
        kind: case.kind,
        request: case.number,
        argument: case.argument,
    };
    let entered = calls::enter(&call, &case.memory);
    let left = calls::leave(&call, 0, &case.memory);
    let mut wrong = Vec::new();
    for expected in &case.expected {
        let found = [&entered, &left].map(|fields| find::number(fields, expected));
        let mut some = found.iter().flatten();
        if some.clone().next().is_none() {
            wrong.push(own(format!("{} is not found", expected.path)));
        } else if let Some(other) = some.find(|found| **found != expected.value) {
            wrong.push(own(format!(
                "{} is {other:#x} in place of {:#x}",
                expected.path, expected.value
            )));
        }
    }
    for (path, names) in &case.names {
        let found = [&entered, &left].map(|fields| find::names(fields, path));
        for name in names {
            if !found.iter().flatten().any(|found| found == name) {
                wrong.push(own(format!("{path} is not called {name}: {found:?}")));
            }
        }
    }
    wrong
}

/// The names of all calls in the table.
fn calls() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = calls::all().map(|(_, _, name)| name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Each byte of each structure belongs to a field, or is padding for the C compiler too.
#[test]
fn no_byte_is_without_a_field() {
    let Some(kernel) = common::headers() else {
        return;
    };
    let headers = headers::read(&kernel.include).unwrap();
    let layouts = headers.layouts().unwrap();
    let mut text = program::Text::new();
    let mut types = 0;
    for (name, layout) in &layouts {
        if let Some(kind) = headers.kind(name) {
            fill::cover(&mut text, name, kind, layout, &layouts);
            types += 1;
        }
    }
    assert!(types > 100, "{types}");
    let output = program::run(&text.whole(), &kernel.include);
    assert_eq!(output.trim(), "");
}
