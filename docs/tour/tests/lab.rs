//! What needs the emulated machine, all in one boot: the chapters' commands print what is recorded,
//! and the exercises' answers get their sentences. `make test-all` runs this. With TOUR_TIMES=1 and
//! --nocapture it tells how long each command took.

use std::path::PathBuf;
use std::{env, fs};

use tour::check::{Check, EXERCISES, wanted};
use tour::commands::{Commands, Output};
use tour::lab;
use tour::record::{Entry, RECORD, Record};
use tour::stable::Stable;
use tour::weave::{Sources, difference};
use tour::{chapter_path, root, same};

/// An answer: its file, what it must get, and what it got.
struct Answer {
    file: PathBuf,
    wanted: Result<(), String>,
    command: String,
    verdict: fn(&Output) -> Result<(), String>,
}

/// The answers of all exercises that are checked in the emulated machine. The gap must get an
/// error, whatever it says.
fn answers() -> Vec<Answer> {
    let mut answers = Vec::new();
    for exercise in &EXERCISES {
        let Check::InLab(command, verdict) = exercise.check else {
            continue;
        };
        let folder = root().join(format!("docs/tour/exercises/{}", exercise.chapter));
        let (_, end) = exercise.gap.split_once('.').unwrap();
        let wrong = (1..=5).map(|number| format!("wrong-{number}.{end}"));
        for name in wrong.chain([format!("solution.{end}")]) {
            let file = folder.join(name);
            let text = fs::read_to_string(&file).unwrap();
            answers.push(Answer {
                command: command(&text),
                wanted: wanted(&text).map_or(Ok(()), Err),
                file,
                verdict,
            });
        }
    }
    answers
}

/// Your own VMM, and mini-vmm with the same guest.
const TRACES: [&str; 2] = [
    "own edu.img 0000:00:0b.0",
    "mini-vmm --kernel edu.elf --memory 64M --vfio 00:0b.0 --iommu container",
];

/// The command that prints the trace of another.
fn traced(command: &str) -> String {
    format!(
        "mini-vmm host bind 00:0b.0 >/dev/null 2>&1
mini-vmm trace --json -o /run/trace -- {command} >/run/said 2>&1
echo \"status $?\"
cat /run/said /run/trace
mini-vmm host unbind 00:0b.0 >/dev/null 2>&1"
    )
}

/// Both VMMs have run their guest to its end, with the same calls for the same subjects, and what
/// mini-vmm calls besides stands in the chapter's table.
fn makes_the_same_calls(traces: &[Output], chapter: &str) {
    for (command, trace) in TRACES.iter().zip(traces) {
        for line in ["status 0", "words that came back: 00000200"] {
            let has = trace.text.lines().any(|l| l.trim_end() == line);
            assert!(has, "{command} did not say `{line}`:\n{}", trace.text);
        }
    }
    let calls: Vec<_> = traces
        .iter()
        .map(|trace| same::calls(&trace.text).unwrap())
        .collect();
    let [own, other] = &calls[..] else {
        panic!("{} traces", calls.len());
    };
    let table = same::table(chapter);
    assert_eq!(same::compare(own, other, &table), Ok(()));
}

/// Whether this machine can emulate one.
fn has_qemu() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|dir| dir.join("qemu-system-x86_64").is_file());
    let required = env::var_os("MINI_VMM_REQUIRE").is_some_and(|v| v == "1");
    assert!(found || !required, "qemu-system-x86_64 is not installed");
    if !found {
        println!("SKIPPED: qemu-system-x86_64 is not installed");
    }
    found
}

#[test]
#[ignore = "boots an emulated machine; `make test-all` runs it"]
fn the_lab_prints_what_is_recorded_and_answers_get_their_sentences() {
    if !has_qemu() {
        return;
    }
    let sources = Sources::new(root());
    let stable = Stable::parse(&sources.read("docs/tour/stable.txt").unwrap()).unwrap();
    let chapters = lab::all_commands(&sources).unwrap();
    let answers = answers();
    assert!(chapters.len() >= 10 && answers.len() >= 12);
    let of_chapter = |command: String| (command, lab::FOR_COMMAND);
    let commands = chapters
        .iter()
        .map(|(_, command)| of_chapter(command.clone()));
    let tries = answers.iter();
    let commands: Vec<_> = commands
        .chain(tries.map(|answer| (answer.command.clone(), lab::FOR_ANSWER)))
        .chain(TRACES.map(|command| of_chapter(traced(command))))
        .collect();
    let outputs = lab::run(&commands, &stable, &Commands::new(root())).unwrap();
    let (printed, rest) = outputs.split_at(chapters.len());
    let (tried, traces) = rest.split_at(answers.len());
    makes_the_same_calls(traces, &sources.read(&chapter_path("14-own.md")).unwrap());
    let entries = chapters.iter().zip(printed);
    let entries = entries.map(|((chapter, command), output)| Entry {
        chapter: *chapter,
        command: command.clone(),
        output: output.clone(),
    });
    let record = Record::new(entries.collect()).text();
    let differs = difference(&sources.read(RECORD).unwrap(), &record);
    let differs = differs.map(|what| format!("{RECORD}, {what}\n`make tour` records it anew"));
    let wrong = answers.iter().zip(tried).filter_map(|(answer, output)| {
        let got = (answer.verdict)(output);
        let (file, wanted, text) = (answer.file.display(), &answer.wanted, &output.text);
        (got != *wanted).then(|| format!("{file}: {got:?}, not {wanted:?}; it printed:\n{text}"))
    });
    let wrong: Vec<_> = differs.into_iter().chain(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
