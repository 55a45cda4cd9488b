//! `mini-vmm ctl`: sends a request to the socket of a running guest, and prints the answer.
//!
//! | file | what |
//! | --- | --- |
//! | [`answer`] | errors, and answers that are one |
//! | `plug` | adds and removes devices, which takes a while |
//! | `text` | answers for people |
//! | `tree` | `vm.pci` for people |

pub mod answer;
mod plug;
mod text;
mod tree;

use std::io::Write;
use std::path::Path;

use api::client::Client;
use serde_json::Value;

use crate::cli::ctl::{CtlArgs, EventsArgs, Verb};
use crate::ctl::answer::{CtlError, accepted, target};

/// Carries out a request, and prints its answer to `out`.
///
/// # Errors
/// Nobody listens, or the request is refused.
pub fn ctl(args: &CtlArgs, out: &mut impl Write) -> Result<(), CtlError> {
    let path = &args.path;
    match &args.verb {
        Verb::Info { json } => show(path, "vm.info", *json, text::info, out),
        Verb::Pci { json } => show(path, "vm.pci", *json, tree::tree, out),
        Verb::Counters { json } => show(path, "vm.counters", *json, text::counters, out),
        Verb::Pause => change(path, "vm.pause"),
        Verb::Resume => change(path, "vm.resume"),
        Verb::Add(args) => plug::add(path, args, out),
        Verb::Remove(args) => plug::remove(path, args, out),
        Verb::Reboot => change(path, "vm.reboot"),
        Verb::PowerButton => change(path, "vm.power-button"),
        Verb::Shutdown => change(path, "vm.shutdown"),
        Verb::Events(args) => events(path, args, out),
    }
}

fn change(path: &Path, name: &str) -> Result<(), CtlError> {
    let answer = Client::connect(path)?.ask("PUT", &target(name), None)?;
    accepted(answer).map(|_| ())
}

/// Prints an answer as JSON, or for people by `text`. `text` returns `None` if a field is missing.
fn show(
    path: &Path,
    name: &str,
    json: bool,
    text: fn(&Value) -> Option<String>,
    out: &mut impl Write,
) -> Result<(), CtlError> {
    let answer = Client::connect(path)?.ask("GET", &target(name), None)?;
    let body = accepted(answer)?;
    let misunderstood = || CtlError::Answer(path.into());
    let value: Value = serde_json::from_slice(&body).map_err(|_| misunderstood())?;
    let text = match json {
        true => serde_json::to_string_pretty(&value).ok().map(|t| t + "\n"),
        false => text(&value),
    };
    out.write_all(text.ok_or_else(misunderstood)?.as_bytes())?;
    Ok(())
}

/// Prints events until the run ends.
fn events(path: &Path, args: &EventsArgs, out: &mut impl Write) -> Result<(), CtlError> {
    let mut target = target("vm.events");
    if let Some(since) = args.since {
        target += &format!("?since={since}");
    }
    let mut outcome = Ok(());
    let answer = Client::connect(path)?.follow(&target, |line| {
        let event: Option<Value> = serde_json::from_str(line).ok();
        let text = match (&event, args.json) {
            (Some(event), false) => text::event(event).unwrap_or_else(|| line.into()),
            _ => line.into(),
        };
        outcome = writeln!(out, "{text}").and_then(|()| out.flush());
        outcome.is_ok()
    })?;
    outcome?;
    answer.map_or(Ok(()), |answer| accepted(answer).map(|_| ()))
}
