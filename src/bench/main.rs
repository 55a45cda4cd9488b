//! The program: a measurement on the host, and /init of its own guests.

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use clap::Parser;
use mini_vmm_bench::cli::{Cli, RunArgs};
use mini_vmm_bench::context::fact::Verdict;
use mini_vmm_bench::context::machine::Machine;
use mini_vmm_bench::error::{Context, Error, Result};
use mini_vmm_bench::report::markdown;
use mini_vmm_bench::report::results::Results;
use mini_vmm_bench::session::plan::Plan;
use mini_vmm_bench::session::rounds;
use mini_vmm_bench::{context, guest, stop};

fn main() -> ExitCode {
    if process::id() == 1 {
        guest::main();
    }
    match run(&Cli::parse().run) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(error)) | Err(error) => fail(&error),
    }
}

/// Makes a measurement. Returns the error that ended it after some rounds, if there was one.
fn run(args: &RunArgs) -> Result<Option<Error>> {
    let plan = Plan::make(&args.settings())?;
    print!("{plan}");
    if args.dry_run {
        return Ok(None);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(
            Error::new("only root can bind the device and read its disk")
                .with_hint("type the same after `sudo`"),
        );
    }
    stop::listen()?;
    let machine = Machine::at(Path::new("/"), &plan.device.address, &plan.cpus);
    let mut facts = context::read(&machine);
    for fact in facts.iter().filter(|fact| fact.verdict != Verdict::Good) {
        let remedy = fact.remedy.as_deref().unwrap_or("-");
        println!("{}: {}\n          → {remedy}", fact.name, fact.text);
    }
    let made = rounds::run(&plan);
    rounds::end_progress();
    let (made, error) = made?;
    facts.extend(context::changes(&facts, &context::read(&machine)));
    let results = Results::of(&plan, made, facts);
    let text = markdown::text(&results);
    print!("\n{text}");
    write(args.output.as_deref(), &results, &text)?;
    Ok(error)
}

fn write(output: Option<&Path>, results: &Results, text: &str) -> Result<()> {
    let date = results.date.replace([':', 'Z'], "");
    let name = output.map_or_else(
        || PathBuf::from(format!("mini-vmm-bench-{date}")),
        Path::to_owned,
    );
    let json = serde_json::to_string(results)
        .map_err(|e| Error::new(format!("the results are no JSON: {e}")))?;
    for (end, text) in [("json", json.as_str()), ("md", text)] {
        let mut path = name.clone().into_os_string();
        path.push(format!(".{end}"));
        let path = PathBuf::from(path);
        fs::write(&path, text).context(format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn fail(error: &Error) -> ExitCode {
    for line in error.details() {
        eprintln!("  | {}", printable(line));
    }
    let source = error.source().map(|source| format!(": {source}"));
    eprintln!(
        "mini-vmm-bench: {}",
        printable(&format!("{error}{}", source.unwrap_or_default()))
    );
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(if error.is_interrupted() { 130 } else { 1 })
}

/// Escapes what a terminal would take for a command: a guest says what it likes.
fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.into(),
    };
    text.chars().map(escape).collect()
}
