//! Each chapter is whole: a question, commands, a figure, source, something to break, three
//! questions with answers, and an exercise with a gap, a solution and five wrong answers.

use std::collections::BTreeSet;
use std::fs;

use tour::check::{self, wanted};
use tour::weave::Sources;
use tour::{CHAPTERS, chapter_path, root};

/// The text below a heading, up to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\n## {heading}\n"))?;
    Some(
        rest.split_once("\n## ")
            .map_or(rest, |(section, _)| section),
    )
}

/// The texts between a question's `<details>` and its end, without the word to click on.
fn answers(questions: &str) -> Vec<&str> {
    let parts = questions.split("</summary>").skip(1);
    let answers = parts.filter_map(|part| Some(part.split_once("</details>")?.0.trim()));
    answers.filter(|answer| !answer.is_empty()).collect()
}

/// What a chapter lacks.
fn lacks(number: u32, text: &str) -> Vec<&'static str> {
    let mark = |kinds: &[&str]| {
        kinds
            .iter()
            .any(|kind| text.contains(&format!("<!-- weave: {kind}")))
    };
    let opening = text.split("\n\n").nth(1).unwrap_or_default();
    let question = opening
        .strip_prefix("**")
        .and_then(|rest| Some(rest.split_once("**")?.0.contains('?')));
    let to_break = section(text, "Break it").unwrap_or_default();
    let asked = section(text, "Questions").unwrap_or_default();
    let numbers = ["1. ", "2. ", "3. ", "4. "]
        .map(|number| asked.lines().any(|line| line.starts_with(number)));
    let exercise = section(text, "Exercise").unwrap_or_default();
    let gap = check::exercise(number).map_or("nothing", |exercise| exercise.gap);
    let parts = [
        ("a question", question == Some(true)),
        ("a command", mark(&["run", "lab"])),
        ("a figure", mark(&["figure ", "lab-figure "])),
        ("source of mini-vmm or its guests", mark(&["source "])),
        (
            "something to break",
            ["run", "lab"]
                .iter()
                .any(|kind| to_break.contains(&format!("<!-- weave: {kind}"))),
        ),
        ("three questions", numbers == [true, true, true, false]),
        ("three answers", answers(asked).len() == 3),
        (
            "the exercise's file",
            exercise.contains(&format!("](../exercises/{number}/{gap})")),
        ),
        (
            "how to check the exercise",
            exercise.contains(&format!("\ncargo run -p tour -- check {number}\n")),
        ),
    ];
    let missing = parts.into_iter().filter(|(_, has)| !has);
    missing.map(|(part, _)| part).collect()
}

#[test]
fn each_chapter_has_all_its_parts() {
    let sources = Sources::new(root());
    for (number, name) in CHAPTERS {
        let text = sources.read(&chapter_path(name)).unwrap();
        assert_eq!(lacks(number, &text), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn a_part_that_is_gone_is_missed() {
    let text = Sources::new(root())
        .read(&chapter_path("2-machine.md"))
        .unwrap();
    for (old, new, part) in [
        (
            "**What is the least that a program must ask of Linux to have a machine?**",
            "Look.",
            "a question",
        ),
        ("weave: figure ", "figure: ", "a figure"),
        (
            "weave: source ",
            "source: ",
            "source of mini-vmm or its guests",
        ),
        ("\n## Break it\n", "\n## Look at it\n", "something to break"),
        ("\n3. ", "\n\n", "three questions"),
        ("</details>", "", "three answers"),
        ("/2/gap.s", "/3/gap.s", "the exercise's file"),
        ("check 2\n", "check 3\n", "how to check the exercise"),
    ] {
        assert!(text.contains(old), "{old}");
        let missing = lacks(2, &text.replace(old, new));
        assert!(missing.contains(&part), "{part}: {missing:?}");
    }
}

/// Beside the gap stand a solution and five wrong answers, whose messages differ.
#[test]
fn each_exercise_has_a_solution_and_five_mistakes() {
    for (number, _) in CHAPTERS {
        let exercise = check::exercise(number).expect("each chapter has an exercise");
        let folder = root().join(format!("docs/tour/exercises/{number}"));
        let (_, end) = exercise.gap.split_once('.').unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let (gap, solution) = (read(exercise.gap), read(&format!("solution.{end}")));
        assert!(wanted(&solution).is_none() && gap != solution, "{number}");
        let mistakes = (1..=5).map(|mistake| wanted(&read(&format!("wrong-{mistake}.{end}"))));
        let messages: BTreeSet<_> = mistakes.map(Option::unwrap).collect();
        assert_eq!(messages.len(), 5, "{number}: {messages:#?}");
        for message in &messages {
            assert!(
                message.ends_with('.') && message.len() > 40,
                "{number}: {message}"
            );
        }
    }
}
