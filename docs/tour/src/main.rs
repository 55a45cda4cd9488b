//! `tour weave`, `tour book` and `tour check`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use tour::commands::Commands;
use tour::lab;
use tour::record::{RECORD, Record};
use tour::stable::Stable;
use tour::weave::{Loom, Sources, difference};
use tour::{CHAPTERS, book, chapter_path, check, messages, root};

const USAGE: &str =
    "usage: tour weave               make all chapters anew; boots the emulated machine once
       tour weave --recorded    the same with what that machine has printed the last time
       tour weave --check       only compare, with what that machine has printed the last time
       tour book                build the book in each language, into target/book
       tour check N [FILE]      check the exercise of chapter N (docs/tour/exercises/N)";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["weave"] => record().and_then(|()| weave(false)),
        ["weave", "--recorded"] => weave(false),
        ["weave", "--check"] => weave(true),
        ["book"] => book::build(&Commands::new(root())),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["check", number] => exercise(number, None),
        ["check", number, file] => exercise(number, Some(file)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the chapters' commands in the emulated machine, and keeps what they print.
fn record() -> Result<(), String> {
    let sources = Sources::new(root());
    let stable = Stable::parse(&sources.read("docs/tour/stable.txt")?)?;
    let commands = lab::all_commands(&sources)?;
    println!("{} commands run in the emulated machine", commands.len());
    let entries = lab::entries(&commands, &stable, &Commands::new(root()))?;
    let text = Record::new(entries).text();
    fs::write(root().join(RECORD), text).map_err(|e| format!("{}: {e}", RECORD))
}

/// Makes all chapters anew, or compares them with what they would be.
fn weave(only_compare: bool) -> Result<(), String> {
    let sources = Sources::new(root());
    let stable = Stable::parse(&sources.read("docs/tour/stable.txt")?)?;
    let mut commands = Commands::new(root());
    commands.build()?;
    let mut lab = Record::parse(&sources.read(RECORD)?)?;
    for (chapter, name) in CHAPTERS {
        let path = chapter_path(name);
        let old = sources.read(&path)?;
        let mut loom = Loom {
            sources: &sources,
            commands: &mut commands,
            stable: &stable,
            lab: &mut lab,
            chapter,
        };
        let new = loom.weave(&old).map_err(|e| format!("{path}, {e}"))?;
        put(&path, &old, &new, only_compare)?;
    }
    for (path, old, new) in messages::files_of_translators(&sources)? {
        put(&path, &old, &new, only_compare)?;
    }
    Ok(())
}

/// Writes a file that is new, or complains of it.
fn put(path: &str, old: &str, new: &str, only_compare: bool) -> Result<(), String> {
    match difference(old, new) {
        None => println!("{path} is as it was"),
        Some(what) if only_compare => return Err(format!("{path}, {what}")),
        Some(what) => {
            fs::write(root().join(path), new).map_err(|e| format!("{path}: {e}"))?;
            println!("{path} is new; first, {what}");
        }
    }
    Ok(())
}

fn exercise(number: &str, file: Option<&str>) -> Result<(), String> {
    let exercise = number.parse().ok().and_then(check::exercise);
    let exercise = exercise.ok_or_else(|| {
        let known: Vec<_> = check::EXERCISES
            .iter()
            .map(|e| e.chapter.to_string())
            .collect();
        format!(
            "there is no exercise {number}; there are {}",
            known.join(", ")
        )
    })?;
    let file = match file {
        Some(file) => PathBuf::from(file),
        None => Path::new("docs/tour/exercises")
            .join(number)
            .join(exercise.gap),
    };
    exercise.check(&file, &Commands::new(root()))?;
    println!("{}: right", file.display());
    Ok(())
}
