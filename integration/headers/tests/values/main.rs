//! Every call with a known value in every field: each value is under its name.

#[path = "../common/mod.rs"]
mod common;
mod find;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use headers::calls::output::{self, Case};
use headers::calls::{compare, program};
use lab::headers::KernelHeaders;
use trace::decode::calls::{self, Call};

/// Compiles a program, and returns its path.
fn compile(text: &str, kernel: &KernelHeaders, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    program::compile(text, &kernel.include, &path, false).unwrap();
    path
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_value_is_found_under_its_name() {
    let Some(kernel) = common::headers() else {
        return;
    };
    let headers = headers::read(&kernel.include).unwrap();
    let program = compile(&program::text(&headers).unwrap(), &kernel, "calls");
    let cases = output::read(&run(&mut Command::new(program))).unwrap();
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
    let made: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(made.len(), program::names().len());
    assert!(values > 5000 && names > 200, "{values} {names}");
    println!(
        "{} calls in {} cases, {values} values, {names} with names",
        made.len(),
        cases.len()
    );
}

/// The same from outside: the program makes the calls for real, and mini-vmm-trace watches. What
/// the trace shows of each call is what the program's memory had before and after the call.
#[test]
fn a_traced_program_has_the_same_values() {
    let Some(kernel) = common::headers() else {
        return;
    };
    if !common::kvm() {
        return;
    }
    let headers = headers::read(&kernel.include).unwrap();
    let program = compile(&program::text(&headers).unwrap(), &kernel, "traced-calls");
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calls.json");
    let mut command = Command::new(tracer());
    command.args(["--json", "--output"]).arg(&trace).arg("--");
    let said = run(command.arg(program).arg("call"));
    let trace = std::fs::read_to_string(&trace).unwrap();
    let seen = compare::compare(&said, &trace, &headers).unwrap();
    // The files of VFIO and iommufd are not on each machine; a lab scenario has them.
    assert!(seen.calls > 140 && seen.values > 4000, "{seen:?}");
    println!("{seen:?}");
}

/// The tracer, built from this tree.
fn tracer() -> PathBuf {
    let build = [
        "build",
        "--quiet",
        "--package",
        "mini-vmm",
        "--bin",
        "mini-vmm-trace",
    ];
    let mut cargo = Command::new(env!("CARGO"));
    run(cargo.args(build).current_dir(lab::host::workspace()));
    lab::host::target().join("debug/mini-vmm-trace")
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

/// Each byte of each structure belongs to a field, or is padding for the C compiler too.
#[test]
fn no_byte_is_without_a_field() {
    let Some(kernel) = common::headers() else {
        return;
    };
    let headers = headers::read(&kernel.include).unwrap();
    let (text, types) = program::coverage(&headers).unwrap();
    assert!(types > 100, "{types}");
    let program = compile(&text, &kernel, "coverage");
    assert_eq!(run(&mut Command::new(program)), "");
}
