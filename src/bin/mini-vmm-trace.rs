//! The program `mini-vmm-trace`, which `mini-vmm trace` starts.

use std::error::Error;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser};
use trace::cli::{EXAMPLES, TraceArgs};
use trace::engine::{self, End};
use trace::files::identify;
use trace::kernel::source::Source;
use trace::output::emitter::{Emitter, Output};
use trace::output::files::Files;
use trace::output::html::output::Html;
use trace::output::json::Lines;
use trace::output::perfetto::Perfetto;
use trace::output::text::{Style, Text};
use trace::sys::signals::{self, KeptBack};
use trace::watch::world::World;

/// Runs a command, and shows its KVM, VFIO and iommufd calls, and what its guest does.
#[derive(Debug, Parser)]
#[command(name = "mini-vmm-trace", bin_name = "mini-vmm trace", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    args: TraceArgs,

    /// Show padding and reserved fields too
    // Beside the flags of TraceArgs, because mini-vmm has a flag of this name for all commands.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

/// Bytes that are kept before they are written.
const BUFFER: usize = 1 << 16;
/// The exit status for errors of the tracer itself, as env(1) has it.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let Cli { args, verbose } = Cli::parse();
    if !identify::is_possible() {
        let text = "/proc does not show the processes here, so no descriptor can be named";
        return fail(
            text,
            None,
            Some("mount it: mount -t proc proc /proc"),
            FAILED,
        );
    }
    let mut files = Files::default();
    let outputs = match outputs(&args, verbose > 0, &mut files) {
        Ok(outputs) => outputs,
        Err((path, e)) => {
            let text = format!("{} cannot be written", path.display());
            let hint = match e.kind() {
                io::ErrorKind::InvalidInput => "give each output a file of its own",
                _ => "name a file in a directory of yours",
            };
            return fail(&text, Some(&e), Some(hint), FAILED);
        }
    };
    let signals = KeptBack::new();
    let kernel = args.kernel.then(kernel).flatten();
    let reader = args.output.is_none() && io::stderr().is_terminal();
    let emitter = Emitter::new(outputs, args.filter(), kernel).looked_at(reader);
    let mut world = World::new(emitter);
    let end = engine::trace(&mut world, args.command, !args.no_filter, signals);
    // Without a command too, each file is whole.
    if let Err(e) = world.out.end() {
        say(&e.to_string(), Some(e.hint()));
    }
    for broken in files.broken() {
        say(&broken, Some("make room for the file, and trace again"));
    }
    if let Err(e) = &end {
        return fail(&e.to_string(), e.source(), e.hint(), e.status());
    }
    match end {
        Ok(End::Status(status)) => ExitCode::from(status as u8),
        Ok(End::Signal(signal)) => {
            signals::end_by(signal);
            ExitCode::from(128u8.wrapping_add(signal as u8))
        }
        Err(_) => ExitCode::from(FAILED),
    }
}

/// The kernel's events. Without them, the rest is shown.
fn kernel() -> Option<Source> {
    let source = match Source::new() {
        Ok(source) => source,
        Err(e) => {
            say(&e.to_string(), Some(e.hint()));
            return None;
        }
    };
    if !source.missing().is_empty() {
        let missing = source.missing().join(", ");
        let text = format!("the kernel has no event {missing}; the others are shown");
        say(&text, Some("see /sys/kernel/tracing/available_events"));
    }
    Some(source)
}

fn outputs(
    args: &TraceArgs,
    all_fields: bool,
    files: &mut Files,
) -> Result<Vec<Box<dyn Output>>, (PathBuf, io::Error)> {
    let terminal = args.output.is_none() && io::stderr().is_terminal();
    let to: Box<dyn Write> = match &args.output {
        Some(path) => create(path, files)?,
        None => Box::new(BufWriter::with_capacity(BUFFER, io::stderr())),
    };
    let style = Style {
        color: terminal && std::env::var_os("NO_COLOR").is_none(),
        raw: terminal,
        summary_only: args.summary_only,
        why: args.why,
        all_fields,
    };
    let mut outputs: Vec<Box<dyn Output>> = vec![match args.json {
        true => Box::new(Lines::new(to, args.why)),
        false => Box::new(Text::new(to, style)),
    }];
    if let Some(path) = &args.perfetto {
        outputs.push(Box::new(Perfetto::new(create(path, files)?)));
    }
    if let Some(path) = &args.html {
        let words = args.command.iter().map(|word| word.to_string_lossy());
        let command = words.collect::<Vec<_>>().join(" ");
        let html = Html::new(create(path, files)?, command, args.filter().chooses());
        outputs.push(Box::new(html));
    }
    Ok(outputs)
}

fn create(path: &Path, files: &mut Files) -> Result<Box<dyn Write>, (PathBuf, io::Error)> {
    let file = files.create(path).map_err(|e| (path.to_owned(), e))?;
    Ok(Box::new(BufWriter::with_capacity(BUFFER, file)))
}

fn fail(
    text: &str,
    cause: Option<&(dyn Error + 'static)>,
    hint: Option<&str>,
    status: u8,
) -> ExitCode {
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    say(&format!("{text}{cause}"), hint);
    ExitCode::from(status)
}

fn say(text: &str, hint: Option<&str>) {
    // Nobody may read standard error.
    let _ = writeln!(io::stderr(), "mini-vmm trace: {text}");
    if let Some(hint) = hint {
        let _ = writeln!(io::stderr(), "hint: {hint}");
    }
}
