//! The program: a measurement on the host, and /init of its own guests.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use clap::Parser;
use mini_vmm_bench::cli::{Cli, Command, RunArgs};
use mini_vmm_bench::context::fact::Verdict;
use mini_vmm_bench::context::loaded::Looks;
use mini_vmm_bench::context::machine::Machine;
use mini_vmm_bench::error::{Error, Result};
use mini_vmm_bench::network::service::Service;
use mini_vmm_bench::report::results::Results;
use mini_vmm_bench::report::{compare, comparisons, file, markdown, merge};
use mini_vmm_bench::session::plan::Plan;
use mini_vmm_bench::session::rounds;
use mini_vmm_bench::{context, guest, reports, say, stop};

fn main() -> ExitCode {
    if guest::is_init(process::id(), Path::new("/")) {
        guest::main();
    }
    let cli = Cli::parse();
    let outcome = match &cli.command {
        None => run(&cli.run),
        Some(Command::Compare { before, after }) => show_compared(before, after),
        Some(Command::Report { file }) => write_reports(file),
        Some(Command::Merge { files }) => show_merged(files),
        Some(Command::Serve { address }) => serve(*address),
    };
    match outcome {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(error)) | Err(error) => fail(&error),
    }
}

/// Makes a measurement. Returns the error that ended it after some rounds, if there was one.
fn run(args: &RunArgs) -> Result<Option<Error>> {
    let plan = Plan::make(&args.settings())?;
    say::text(&plan);
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
        say::text(format_args!(
            "{}: {}\n          → {remedy}\n",
            fact.name, fact.text
        ));
    }
    let looks = Looks::start(&plan.device.address);
    let made = rounds::run(&plan);
    let loaded = looks.end();
    rounds::end_progress();
    let (made, error) = made?;
    facts.extend(context::changes(&facts, &context::read(&machine)));
    context::under_load(&mut facts, &machine, &loaded);
    if plan.task.works.is_empty() {
        context::without_work(&mut facts);
    }
    let mut results = Results::of(&plan, made, facts);
    results.comparisons = comparisons::of(&results);
    let date = results.date.replace([':', 'Z'], "");
    let name = args.output.clone();
    let name = name.unwrap_or_else(|| format!("mini-vmm-bench-{date}").into());
    // Files that cannot be written are no reason to show nothing.
    let written = file::write(&name, &results);
    say::text(format_args!("\n{}", markdown::text(&results)));
    say::text(format_args!("{}\n", written?.display()));
    say_written(&name, &results)?;
    Ok(error)
}

/// Answers until a signal ends the program.
fn serve(address: SocketAddrV4) -> Result<Option<Error>> {
    stop::listen()?;
    let service = Service::start(address)?;
    say::line(format_args!(
        "answering at {}; Ctrl-C ends it",
        service.address
    ));
    while !stop::STOP.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

fn write_reports(path: &Path) -> Result<Option<Error>> {
    say_written(&path.with_extension(""), &file::read(path)?)?;
    Ok(None)
}

fn say_written(name: &Path, results: &Results) -> Result<()> {
    for path in reports::write(name, results)? {
        say::text(format_args!("{}\n", path.display()));
    }
    Ok(())
}

fn show_compared(before: &Path, after: &Path) -> Result<Option<Error>> {
    let text = compare::text(&file::read(before)?, &file::read(after)?)?;
    say::text(text);
    Ok(None)
}

fn show_merged(files: &[PathBuf]) -> Result<Option<Error>> {
    let read = |path: &PathBuf| Ok((path.clone(), file::read(path)?));
    let all = files.iter().map(read).collect::<Result<Vec<_>>>()?;
    say::text(merge::text(&all)?);
    Ok(None)
}

fn fail(error: &Error) -> ExitCode {
    say::error(error);
    ExitCode::from(if error.is_interrupted() { 130 } else { 1 })
}
