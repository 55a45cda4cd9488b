//! The program: parses the command line, runs the selected action, and sets the exit status.

use std::env;
use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use host::bind::{Host, bind, recover_all, unbind};
use host::cdi::{CdiError, MEMLOCK_NOTE, Spec};
use host::names::Names;
use host::paths::HostPaths;
use host::persist::Files;
use host::style::Style;
use host::{check, list, slurm, whole_file};
use mini_vmm::api_socket::ApiSocket;
use mini_vmm::cli::explain::ExplainArgs;
use mini_vmm::cli::host::{CdiArgs, CheckArgs, HostCommand, ListArgs, SlurmArgs};
use mini_vmm::cli::run::RunArgs;
use mini_vmm::cli::{Action, Cli, CliError};
use mini_vmm::ctl::ctl;
use mini_vmm::explain::{explain, note, unreadable_files};
use mini_vmm::handover;
use mini_vmm::run;
use mini_vmm::tracer::start_tracer;
use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use vmm::hostinfo::device_names;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::log::degraded;
use vmm::log::error_chain::with_causes;
use vmm::log::phases;
use vmm::log::phases::{Clock, Phases};
use vmm::log::stderr::{Stderr, say};
use vmm::sandbox;
use vmm::sys;

fn main() -> ExitCode {
    let clock = Clock::start();
    sys::process::share_one_heap();
    let cli = match Cli::read(env::args_os()) {
        Ok(cli) => cli,
        Err(CliError::Usage(e)) => e.exit(),
        Err(CliError::File(e)) => return fail(&e, Some(e.hint())),
    };
    let phases = cli.has_stats().then(|| Phases::new(clock));
    log_to_stderr(cli.verbosity(), phases.clone());
    match cli.into_action() {
        Ok(Action::Run(args)) => run_guest(*args, phases.as_ref()),
        Ok(Action::Host(command)) => host(command),
        Ok(Action::Explain(args)) => explain_run(*args),
        Ok(Action::Ctl(args)) => match ctl(&args, &mut io::stdout()) {
            Err(e) if !e.is_closed_pipe() => fail(&e, e.hint()),
            _ => ExitCode::SUCCESS,
        },
        Ok(Action::Trace) => {
            let e = start_tracer(env::args_os());
            fail(&e, Some(e.hint()))
        }
        Ok(Action::Completions(shell)) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mini-vmm", &mut script);
            print(&script)
        }
        Err(e) => e.exit(),
    }
}

fn host(command: HostCommand) -> ExitCode {
    if command.changes_the_host() {
        // A signal must not end a command between its first and its last change.
        sys::process::ignore_signals();
    }
    let command = match command.resolve() {
        Ok(command) => command,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    match command {
        HostCommand::Check(args) => host_check(&args),
        HostCommand::List(args) => host_list(&args),
        HostCommand::Bind(args) => match bind(&Host::with_limit(args.limit()), &args.into()) {
            Ok(lines) => print_lines(&lines),
            Err(e) => fail(&e, e.hint()),
        },
        HostCommand::Unbind(args) => match unbind(&Host::with_limit(args.limit()), &args.into()) {
            Ok((lines, errors)) => {
                let mut status = print_lines(&lines);
                for error in &errors {
                    status = fail(error, error.hint());
                }
                status
            }
            Err(e) => fail(&e, e.hint()),
        },
        HostCommand::Recover => match recover_all(&Host::default()) {
            Ok(lines) => print_lines(&lines),
            Err(e) => fail(&e, e.hint()),
        },
        HostCommand::Slurm(args) => host_slurm(&args),
        HostCommand::Cdi(args) => match host_cdi(&args) {
            Ok(status) => status,
            Err(e) => fail(&e, Some(e.hint())),
        },
    }
}

/// Prints the specification, or writes it and prints the names that a container engine takes.
fn host_cdi(args: &CdiArgs) -> Result<ExitCode, CdiError> {
    let spec = Spec::read(&Sysfs::default(), &HostPaths::default(), args.interface())?;
    let text = spec.to_json().unwrap_or_default();
    let status = match &args.output {
        None => print(text.as_bytes()),
        Some(path) => {
            whole_file::write(path, &text, 0o644).map_err(|source| CdiError::Write {
                path: path.clone(),
                source,
            })?;
            print_lines(&spec.names())
        }
    };
    say(format_args!("note: {MEMLOCK_NOTE}"));
    Ok(status)
}

fn host_slurm(args: &SlurmArgs) -> ExitCode {
    let (sysfs, paths) = (Sysfs::default(), HostPaths::default());
    let folder = args.output.clone().unwrap_or("/etc/slurm/vfio".into());
    let files = slurm::files(&sysfs, &paths, args.interface(), &args.node(), &folder);
    let files = match files {
        Ok(files) => files,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    let mut lines = Vec::new();
    for file in files {
        let path = folder.join(&file.name);
        if args.output.is_none() {
            lines.push(format!("# file {}", path.display()));
            lines.extend(file.text.lines().map(String::from));
        } else if let Err(e) = whole_file::write(&path, &file.text, file.mode) {
            let e = format!("cannot write {}: {e}", path.display());
            return fail(
                &io::Error::other(e),
                Some("name a folder that can be written".into()),
            );
        } else {
            lines.push(path.display().to_string());
        }
    }
    print_lines(&lines)
}

fn host_check(args: &CheckArgs) -> ExitCode {
    let (memory, ports) = match args.memory().and_then(|m| Ok((m, args.ports()?))) {
        Ok(guest) => guest,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    let findings = match check::check_host(&args.addresses, memory, ports) {
        Ok(findings) => findings,
        Err(e) => return fail(&e, e.hint()),
    };
    let text = if args.json {
        check::to_json(&findings)
    } else {
        Ok(check::to_text(&findings, Style::of(&io::stdout())))
    };
    match text.map(|text| print(text.as_bytes())) {
        Ok(status) if check::is_good(&findings) => status,
        Ok(_) => ExitCode::from(1),
        Err(e) => fail(&e, None),
    }
}

fn host_list(args: &ListArgs) -> ExitCode {
    let sysfs = Sysfs::default();
    let found = list::list(&sysfs, &Host::default().records, &Names::read(), args.all).and_then(
        |mut found| {
            found.add_calls(&Host::default().records);
            found.add_uses(&sysfs, &HostPaths::default())?;
            add_settings(&mut found, &sysfs);
            Ok(found)
        },
    );
    let found = match found {
        Ok(found) => found,
        Err(e) => return fail(&e, None),
    };
    let text = if args.json {
        list::to_json(&found)
    } else {
        Ok(list::to_text(&found, Style::of(&io::stdout())))
    };
    match text {
        Ok(text) => print(text.as_bytes()),
        Err(e) => fail(&e, None),
    }
}

/// Adds what files in /etc say. A file with a mistake hides no device.
fn add_settings(found: &mut list::List, sysfs: &Sysfs) {
    match Files::of(&HostPaths::default()).all() {
        Ok(rules) => found.add_rules(sysfs, rules),
        Err(e) => warn!("{}; hint: {}", with_causes(&e), e.hint()),
    }
    match device_names::read(Path::new(device_names::FILE)) {
        Ok(names) => found.add_names(&names.unwrap_or_default()),
        Err(e) => warn!("{e}; hint: {}", e.hint()),
    }
}

fn print_lines(lines: &[String]) -> ExitCode {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    print(text.as_bytes())
}

/// Writes to standard output. A closed pipe is no error: a reader such as `head` has read enough.
fn print(text: &[u8]) -> ExitCode {
    match io::stdout().write_all(text) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => fail(&e, None),
        _ => ExitCode::SUCCESS,
    }
}

fn explain_run(args: ExplainArgs) -> ExitCode {
    let (json, choice) = (args.json, args.sandbox());
    let run_as = match args.run_as().map(handover::find).transpose() {
        Ok(run_as) => run_as,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    let config = match args.into_config() {
        Ok(config) => config,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    if let Some(note) = note(&config) {
        say(format_args!("mini-vmm: {note}"));
    }
    // The report shows the losses.
    degraded::only_list();
    if let Err(e) = sandbox::explain(choice) {
        return fail(&e, Some(e.hint()));
    }
    // Before there are other threads and processes.
    let unreadable = run_as.map(|user| unreadable_files(&user, &config));
    let mut explanation = match explain(&Sysfs::default(), &config) {
        Ok(explanation) => explanation,
        Err(e) => return fail(&e, e.hint()),
    };
    explanation
        .problems
        .extend(unreadable.into_iter().flatten());
    if json {
        print_json(&explanation)
    } else {
        print(explanation.to_string().as_bytes())
    }
}

fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(format!("{text}\n").as_bytes()),
        Err(e) => fail(&e, None),
    }
}

fn run_guest(args: RunArgs, phases: Option<&Phases>) -> ExitCode {
    let (host_limit, sandbox) = (args.host_limit(), args.sandbox());
    let api_socket = args.api_socket();
    let run_as = match args.run_as().map(handover::find).transpose() {
        Ok(run_as) => run_as,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    let config = match args.into_config() {
        Ok(config) => config,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    // After the flags, which may name some of the descriptors that a service manager gives.
    let api_socket = match ApiSocket::find(api_socket) {
        Ok(api_socket) => api_socket,
        Err(e) => return fail(&e, Some(e.hint())),
    };
    match run::run(
        config,
        (host_limit, sandbox, run_as.as_ref()),
        api_socket,
        phases,
    ) {
        Ok(exit) => ExitCode::from(exit.status()),
        Err(e) => fail(&e, e.hint()),
    }
}

/// Prints an error and its causes as one sentence, and then the hint.
fn fail(error: &dyn Error, hint: Option<String>) -> ExitCode {
    say(format_args!("mini-vmm: {}", printable(&with_causes(error))));
    if let Some(hint) = hint {
        say(format_args!("hint: {hint}"));
    }
    ExitCode::from(1)
}

/// Escapes what a terminal would take for a command or a line's end: a message quotes what the user
/// typed, and names of files, drivers and processes.
fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.into(),
    };
    text.chars().map(escape).collect()
}

fn log_to_stderr(verbosity: u8, phases: Option<Phases>) {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // Turns off all but the errors of vfio-ioctls: it logs each region of a device in several
    // lines, and mini-vmm logs each region in one line.
    let ours = Targets::new()
        .with_default(level)
        .with_target("vfio_ioctls", LevelFilter::ERROR)
        .with_target(phases::TARGET, LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    let measured = Targets::new().with_target(phases::TARGET, LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(lines.with_filter(ours))
        .with(phases.map(|phases| phases.with_filter(measured)))
        .init();
}
