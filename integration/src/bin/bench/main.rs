//! `make bench`: the same work under mini-vmm, under its peers and under nothing, in turns.
//! It asserts nothing. docs/benchmarking.md says how to run and how to read it.
//!
//! ```text
//! bench                 measures, into target/bench/: results.json, report.md, report.html
//! bench check A B       what moved between two files of results
//! bench readme          the last results' summary, put into the README
//! ```
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`plan`] | what is measured, with which programs |
//! | [`peers`] | how each VMM is started |
//! | [`kvm`] | what runs on this machine's /dev/kvm |
//! | [`session`] | one machine of the lab, its script and what it said |
//! | [`boots`] | guests up to their /init, in the lab |
//! | [`reads`] | reads of an NVMe disk, in the lab |
//! | [`growth`] | more devices, vCPUs and memory, in the lab |
//! | [`maps`] | memory for DMA, in the lab |
//! | [`results`] | figures as data |
//! | [`stats`] | medians, quartiles, slopes |
//! | [`tables`] | the Markdown report |
//! | [`page`], [`plot`] | the HTML report and its plots |
//! | [`targets`] | what was to be reached, and whether it is |
//! | [`summary`] | the README's tables |
//! | [`compare`] | two files of results |

mod boots;
mod compare;
mod growth;
mod kvm;
mod maps;
mod page;
mod peers;
mod plan;
mod plot;
mod reads;
mod results;
mod session;
mod stats;
mod summary;
mod tables;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use lab::error::Context;
use lab::{Error, Result, host};

use plan::Plan;
use results::Results;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] => bench(),
        ["readme"] => readme(),
        ["check", a, b] => check(Path::new(a), Path::new(b)),
        _ => Err(Error::cannot_run(
            format!("the bench has no such job: {}", words.join(" ")),
            "make bench, or make bench-check A=old.json B=new.json",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let plan = Plan::make()?;
    let mut results = Results {
        version: 1,
        date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
        about: about(&plan),
        ..Results::default()
    };
    let dir = host::target().join("bench");
    fs::create_dir_all(&dir).context(format!("make {}", dir.display()))?;
    kvm::run(&plan, &dir.join("work"), &mut results)?;
    in_lab(&plan, &mut results);
    results.targets = targets::targets(&results);
    let summary = summary::summary(&results);
    let markdown = format!("{summary}\n{}", tables::markdown(&results));
    for (name, text) in [
        ("results.json", results.to_json()?),
        ("report.md", markdown.clone()),
        ("report.html", page::html(&results)?),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).context(format!("write {}", path.display()))?;
    }
    println!("\n{summary}");
    println!("{}", dir.join("report.html").display());
    Ok(())
}

/// A part that fails is told of, and the others go on.
fn in_lab(plan: &Plan, results: &mut Results) {
    type Part = fn(&Plan, &mut Results) -> Result<()>;
    let parts: [(u8, Part); 4] = [
        (2, boots::run),
        (3, reads::run),
        (4, maps::run),
        (5, growth::run),
    ];
    for (part, run) in parts {
        if plan.has(part)
            && let Err(error) = run(plan, results)
        {
            eprintln!("  part {part}: {error}");
            results
                .missing
                .push(format!("part {part} in the lab: {error}"));
        }
    }
}

fn check(a: &Path, b: &Path) -> Result<()> {
    print!(
        "{}",
        compare::compare(&Results::read(a)?, &Results::read(b)?)
    );
    Ok(())
}

fn readme() -> Result<()> {
    let results = Results::read(&host::target().join("bench/results.json"))?;
    let path = host::workspace().join("README.md");
    let text = fs::read_to_string(&path).context(format!("read {}", path.display()))?;
    let text = summary::put_into(&text, &summary::summary(&results))?;
    fs::write(&path, text).context(format!("write {}", path.display()))
}

/// What was measured on, and what.
fn about(plan: &Plan) -> std::collections::BTreeMap<String, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown CPU", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let qemu = host::program("qemu-system-x86_64").unwrap_or_else(|| PathBuf::from("none"));
    let version = |program: &Path| {
        output(&program.to_string_lossy(), &["--version"])
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let mut about = std::collections::BTreeMap::from([
        ("machine".into(), format!("{cpus} CPUs, {model}")),
        (
            "kernel".into(),
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        ("QEMU".into(), version(&qemu)),
        (
            "commit".into(),
            output("git", &["describe", "--always", "--dirty"]),
        ),
        (
            "bare calls, version".into(),
            output(&plan.floor.to_string_lossy(), &["version"]),
        ),
    ]);
    if let Some(ours) = plan.peers.first() {
        let size = fs::metadata(&ours.program).map_or(0, |file| file.len());
        let linked = if session::is_dynamic(&ours.program) {
            "dynamic"
        } else {
            "static"
        };
        about.insert(
            "mini-vmm's program".into(),
            format!("{:.2} MiB, {linked}", size as f64 / f64::from(1 << 20)),
        );
    }
    if plan.has(3) {
        about.insert(targets::READS.into(), plan.reads.to_string());
    }
    for peer in plan.peers.iter().filter(|peer| peer.is_given()) {
        about.insert(peer.name.clone(), version(&peer.program));
    }
    about
}

/// A program's output without its line's end; nothing where it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(host::workspace())
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
