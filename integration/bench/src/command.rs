//! The jobs of the program: `make bench`, `make bench-check` and `make bench-readme`. Only this
//! module combines subjects, measurements and reports.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use lab::host;
use lab::progress::Step;

use crate::about;
use crate::compare;
use crate::error::{Context, Error, Result};
use crate::in_lab::{self, Setup, programs};
use crate::on_host;
use crate::plan::{self, Plan};
use crate::report::{markdown, page, summary};
use crate::results::Results;
use crate::subjects::Subjects;
use crate::subjects::list::{self, Own};
use crate::subjects::mini_vmm::Abilities;
use crate::targets;

/// The document that holds the tables of the last published run.
const DOCUMENT: &str = "docs/benchmarks.md";

/// Does the job that the words of the command line name.
pub fn run(words: &[&str]) -> Result<()> {
    match words {
        [] => bench(),
        ["readme"] => readme(),
        ["check", a, b] => check(Path::new(a), Path::new(b)),
        _ => Err(Error::with_hint(
            format!("the bench has no such job: {}", words.join(" ")),
            "make bench, or make bench-check A=old.json B=new.json",
        )),
    }
}

fn bench() -> Result<()> {
    let plan = Plan::from_environment()?;
    let others = list::parse(&plan::text("PEERS"))?;
    let programs = programs::build()?;
    let help = host::output(Command::new(&programs.mini_vmm).arg("--help"))?;
    let own = Own {
        abilities: Abilities::of(&help),
        mini_vmm: programs.mini_vmm,
        bare_calls: programs.floor,
    };
    let qemu = host::program("qemu-system-x86_64");
    let subjects = Subjects::new(own, qemu.clone(), others);
    let mut results = Results {
        version: 1,
        date: about::date(),
        about: about::about(&plan, &subjects, qemu.as_deref(), host::workspace()),
        ..Results::default()
    };
    let dir = host::target().join("bench");
    fs::create_dir_all(&dir).context(format!("make {}", dir.display()))?;
    on_host::run(&plan, &subjects, &dir.join("work"), &rounds, &mut results)?;
    let setup = Setup {
        plan: &plan,
        subjects: &subjects,
        probe: &programs.probe,
    };
    in_lab::run(&setup, &mut results);
    results.targets = targets::targets(&results);
    write(&results, &dir)
}

/// Writes the three reports, and prints the summary.
fn write(results: &Results, dir: &Path) -> Result<()> {
    let summary = summary::summary(results);
    let markdown = format!("{summary}\n{}", markdown::markdown(results));
    for (name, text) in [
        ("results.json", results.to_json()?),
        ("report.md", markdown),
        ("report.html", page::html(results)?),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).context(format!("write {}", path.display()))?;
    }
    println!("\n{summary}");
    println!("{}", dir.join("report.html").display());
    Ok(())
}

/// Calls `round` for each round, and shows the progress as a step of the lab.
fn rounds(what: &str, count: usize, round: &mut dyn FnMut(usize)) {
    let step = Step::start(format!("{what}, {count} rounds"));
    let started = Instant::now();
    for n in 0..count {
        let seconds = started.elapsed().as_secs_f64();
        step.at(&format!("round {} of {count}, {seconds:.0} s", n + 1));
        round(n);
    }
    step.done();
}

fn check(a: &Path, b: &Path) -> Result<()> {
    let (a, b) = (Results::read(a)?, Results::read(b)?);
    print!("{}", compare::compare(&a, &b));
    Ok(())
}

fn readme() -> Result<()> {
    let results = Results::read(&host::target().join("bench/results.json"))?;
    let path = host::workspace().join(DOCUMENT);
    let text = fs::read_to_string(&path).context(format!("read {}", path.display()))?;
    let text = summary::put_into(&text, &summary::summary(&results))?;
    fs::write(&path, text).context(format!("write {}", path.display()))
}
