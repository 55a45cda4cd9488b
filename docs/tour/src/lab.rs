//! Commands that run in the lab, the emulated machine with an IOMMU: all commands of all chapters
//! in one boot. What they print is recorded in docs/tour/lab.json, so that chapters can be woven
//! where no machine can be emulated. `make tour` and `make test-all` boot the machine.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, process};

use crate::commands::{Commands, Output};
use crate::record::{Entry, PROMPT};
use crate::stable::Stable;
use crate::weave::{BEGIN, END, Sources};
use crate::{CHAPTERS, chapter_path};

/// A boot of the emulated machine takes some ten seconds. The limit is for a busy host that builds
/// the machine's programs and kernel first.
const LIMIT: Duration = Duration::from_secs(3000);

/// Seconds for a command of a chapter.
pub const FOR_COMMAND: u32 = 60;
/// Seconds for a reader's answer: a check ends within a minute, with the machine's start.
pub const FOR_ANSWER: u32 = 25;

/// Before the number of a command, and the seconds since the machine's start at its end.
const UP: &str = "@up ";

/// A command, and the seconds after which it is ended.
pub type Limited = (String, u32);

/// The commands of a chapter that run in the lab, in order.
pub fn commands(chapter: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in chapter.lines() {
        if let Some(mark) = line.strip_prefix(BEGIN) {
            let mark = mark.trim_end_matches(" -->");
            let figure = mark.strip_prefix("lab-figure ");
            found.extend(figure.and_then(|f| Some(f.split_once(": ")?.1.to_owned())));
            inside = mark == "lab" || mark.starts_with("lab ");
        } else if inside {
            found.extend(line.strip_prefix(PROMPT).map(str::to_owned));
        }
        inside &= line != END;
    }
    found
}

/// The commands of all chapters.
///
/// # Errors
/// A chapter cannot be read.
pub fn all_commands(sources: &Sources) -> Result<Vec<(u32, String)>, String> {
    let mut all = Vec::new();
    for (number, name) in CHAPTERS {
        let text = sources.read(&chapter_path(name))?;
        all.extend(commands(&text).into_iter().map(|command| (number, command)));
    }
    Ok(all)
}

/// Runs commands of chapters in one boot.
///
/// # Errors
/// The machine does not start, or ends before the last command.
pub fn entries(
    commands: &[(u32, String)],
    stable: &Stable,
    programs: &Commands,
) -> Result<Vec<Entry>, String> {
    let texts: Vec<_> = commands
        .iter()
        .map(|(_, command)| (command.clone(), FOR_COMMAND))
        .collect();
    let outputs = run(&texts, stable, programs)?;
    let pairs = commands.iter().zip(outputs);
    let entries = pairs.map(|((chapter, command), output)| Entry {
        chapter: *chapter,
        command: command.clone(),
        output,
    });
    Ok(entries.collect())
}

/// A file that is gone when dropped.
struct Script(PathBuf);

impl Drop for Script {
    fn drop(&mut self) {
        // It was written, unless the disk is full.
        let _ = fs::remove_file(&self.0);
    }
}

/// Boots the machine once, and runs commands in it.
///
/// # Errors
/// The machine does not start, ends before the last command, or its kernel complains.
pub fn run(
    commands: &[Limited],
    stable: &Stable,
    programs: &Commands,
) -> Result<Vec<Output>, String> {
    let script = Script(env::temp_dir().join(format!("tour-lab-{}", process::id())));
    fs::write(&script.0, script_of(commands))
        .map_err(|e| format!("{}: {e}", script.0.display()))?;
    programs.build_lab()?;
    let command = format!("target/debug/shell --run '{}'", script.0.display());
    let ended = programs.shell(&command, LIMIT)?;
    if env::var_os("TOUR_TIMES").is_some() {
        for (number, seconds) in times(&ended.text) {
            let command = commands.get(number).map_or("", |(command, _)| command);
            let first: String = command.lines().take(1).collect();
            eprintln!("{seconds:7.2} s  {first}");
        }
    }
    let outputs = outputs(&ended.text, commands.len()).and_then(|outputs| match ended.status {
        0 => Ok(outputs),
        status => Err(format!("the emulated machine ended with status {status}")),
    });
    outputs
        .map_err(|why| format!("{why}; the lab says:\n{}", ended.text))
        .map(|outputs| {
            let stabilize = |output: Output| Output {
                text: stable.apply(&output.text),
                ..output
            };
            outputs.into_iter().map(stabilize).collect()
        })
}

/// The numbers of commands, and how many seconds each took, the longest first.
fn times(text: &str) -> Vec<(usize, f64)> {
    let line = |line: &str| {
        let mut words = line.strip_prefix(UP)?.split(' ');
        let number: usize = words.next()?.parse().ok()?;
        Some((number, words.next()?.parse().ok()?))
    };
    let ends: Vec<(usize, f64)> = text.lines().filter_map(line).collect();
    let pairs = ends.iter().zip(ends.iter().skip(1));
    let mut times: Vec<_> = pairs
        .map(|((_, begun), (number, ended))| (*number, ended - begun))
        .collect();
    times.sort_by(|a, b| b.1.total_cmp(&a.1));
    times
}

/// The script that runs each command in a shell of its own, and marks what it prints.
pub fn script_of(commands: &[Limited]) -> String {
    let mut script = String::from(
        "tour() {\n\
         \techo \"@begin $1\"\n\
         \tstatus=0\n\
         \ttimeout $2 sh /run/command </dev/null >/run/printed 2>&1 || status=$?\n\
         \tcat /run/printed\n\
         \t[ -z \"$(tail -c 1 /run/printed)\" ] || echo\n\
         \techo \"@end $1 $status\"\n\
         \techo \"@up $1 $(cat /proc/uptime)\"\n\
         }\n",
    );
    for (number, (command, seconds)) in commands.iter().enumerate() {
        script += &format!(
            "cat >/run/command <<'COMMAND-ENDS'\n{command}\nCOMMAND-ENDS\ntour {number} {seconds}\n"
        );
    }
    script
}

/// The outputs between the marks. If the machine was started twice, the last start counts.
///
/// # Errors
/// Not all commands have ended.
pub fn outputs(text: &str, count: usize) -> Result<Vec<Output>, String> {
    let starts = text
        .lines()
        .enumerate()
        .filter(|(_, line)| *line == "@begin 0");
    let start = starts.last().map_or(0, |(number, _)| number);
    let mut lines = text.lines().skip(start);
    let output = |number: usize| {
        let begin = format!("@begin {number}");
        let end = format!("@end {number} ");
        lines.by_ref().find(|line| *line == begin)?;
        let mut text = String::new();
        for line in lines.by_ref() {
            if let Some(status) = line.strip_prefix(&end) {
                let status = status.parse().ok()?;
                return Some(Output { text, status });
            }
            text += &format!("{line}\n");
        }
        None
    };
    let outputs: Vec<_> = (0..count).map_while(output).collect();
    match outputs.len() == count {
        true => Ok(outputs),
        false => Err(format!(
            "only {} of {count} commands ended in the emulated machine",
            outputs.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_start_of_the_machine_counts() {
        let text = "@begin 0\na\n@end 0 0\n@begin 1\ncut off\n\
                    @begin 0\na\n@end 0 0\n@begin 1\nb\n@end 1 0\n";
        let outputs = outputs(text, 2).unwrap();
        let texts: Vec<_> = outputs.iter().map(|output| &*output.text).collect();
        assert_eq!(texts, ["a\n", "b\n"]);
    }

    #[test]
    fn the_time_of_a_command_is_that_since_the_last() {
        let text = "@end 0 0\n@up 0 10.50 9.1\nx\n@up 1 11.00 9.2\n@up 2 14.00 9.9\n";
        assert_eq!(times(text), [(2, 3.0), (1, 0.5)]);
    }

    #[test]
    fn commands_of_the_lab_are_found_and_others_are_not() {
        let chapter = "<!-- weave: run -->\n$ here\n<!-- end -->\nL1# prose\n\
            <!-- weave: lab status=1 -->\n```console\nL1# first | x\nout\nL1# second\n```\n\
            <!-- end -->\n<!-- weave: lab-figure bars: third --json -->\n<!-- end -->\n";
        assert_eq!(commands(chapter), ["first | x", "second", "third --json"]);
    }

    #[test]
    fn outputs_are_told_apart_and_a_missing_one_is_an_error() {
        let text = "noise\n@begin 0\na\n\nb\n@end 0 0\n@begin 1\n@end 1 3\n";
        let both = outputs(text, 2).unwrap();
        assert_eq!((both[0].text.as_str(), both[0].status), ("a\n\nb\n", 0));
        assert_eq!((both[1].text.as_str(), both[1].status), ("", 3));
        assert!(outputs(text, 3).unwrap_err().contains("2 of 3"));
    }
}
