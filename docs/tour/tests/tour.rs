//! The chapters say what is so: they are made again and compared, and what is changed is found.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, thread};

use tour::catalog::{self, Catalog};
use tour::check::{Check, Exercise};
use tour::commands::{Commands, Output};
use tour::record::{RECORD, Record};
use tour::stable::Stable;
use tour::weave::{Loom, Sources, difference};
use tour::{CHAPTERS, chapter_path, check, messages, root};

/// The outputs of all commands, which each test needs.
static OUTPUTS: Mutex<Option<HashMap<String, Output>>> = Mutex::new(None);

fn outputs() -> MutexGuard<'static, Option<HashMap<String, Output>>> {
    OUTPUTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether guests can run here.
fn has_kvm() -> bool {
    let open = fs::File::options().read(true).write(true).open("/dev/kvm");
    let Err(why) = open else {
        return true;
    };
    let required = std::env::var_os("MINI_VMM_REQUIRE").is_some_and(|v| v == "1");
    assert!(!required, "/dev/kvm cannot be used: {why}");
    println!("SKIPPED: /dev/kvm cannot be used: {why}");
    false
}

/// Makes all chapters from these texts and outputs. Each must be as `sources` has it.
fn compare(sources: &Sources, commands: &mut Commands) -> Result<(), String> {
    let stable = Stable::parse(&sources.read("docs/tour/stable.txt")?)?;
    let mut lab = Record::parse(&sources.read(RECORD)?)?;
    for (chapter, name) in CHAPTERS {
        let committed = sources.read(&chapter_path(name))?;
        let mut loom = Loom {
            sources,
            commands,
            stable: &stable,
            lab: &mut lab,
            chapter,
        };
        let woven = loom.weave(&committed).map_err(|e| format!("{name}, {e}"))?;
        if let Some(what) = difference(&committed, &woven) {
            return Err(format!("{name}, {what}"));
        }
    }
    if !lab.is_used_up() {
        return Err(format!("{} has commands of no chapter", RECORD));
    }
    for (path, committed, renewed) in messages::files_of_translators(sources)? {
        if let Some(what) = difference(&committed, &renewed) {
            return Err(format!("{path}, {what}"));
        }
    }
    Ok(())
}

/// Runs all commands once, and keeps what they print.
fn run_all() -> HashMap<String, Output> {
    let mut kept = outputs();
    let known = kept.get_or_insert_with(|| {
        let mut commands = Commands::new(root());
        commands.build().unwrap();
        let outcome = compare(&Sources::new(root()), &mut commands);
        assert_eq!(outcome, Ok(()), "`make tour` makes the chapters anew");
        commands.known
    });
    known.clone()
}

#[test]
fn chapters_are_what_they_would_be() {
    if !has_kvm() {
        return;
    }
    run_all();
    // Once more: nothing changes from run to run.
    let mut commands = Commands::new(root());
    assert_eq!(compare(&Sources::new(root()), &mut commands), Ok(()));
}

/// A change of what a chapter is made from.
enum Seed {
    /// Of a file: a text, and what stands there instead.
    File(&'static str, &'static str, &'static str),
    /// Of what each command prints.
    Output(&'static str, &'static str),
    /// Of how the commands with this text end.
    Status(&'static str, i32),
}

const SEEDS: [(&str, Seed); 21] = [
    (
        "a register's name",
        Seed::Output("serial port + 0x5", "serial port + 0x6"),
    ),
    (
        "a message",
        Seed::Output("KVM cannot emulate", "KVM can't emulate"),
    ),
    ("a count of exits", Seed::Output("6  pio_in", "7  pio_in")),
    (
        "the name of an item in its file",
        Seed::File("src/vmm/memory/kvm_slots.rs", "fn set(", "fn assign("),
    ),
    (
        "the name of an item in a chapter",
        Seed::File(
            "docs/tour/chapters/2-machine.md",
            "KvmSlots::set",
            "KvmSlots::put",
        ),
    ),
    (
        "a text that bounds the lines",
        Seed::File(
            "src/vmm/vcpu/exit_loop.rs",
            "let mut runner",
            "let mut a_runner",
        ),
    ),
    (
        "a line of the source",
        Seed::File("src/vmm/bus.rs", "data.fill(0xff);", "data.fill(0);"),
    ),
    (
        "a figure's data",
        Seed::Output("anon_inode:kvm-vm\n", "anon_inode:kvm\n"),
    ),
    (
        "a register of a device",
        Seed::Output("06040000", "06000000"),
    ),
    ("a range of a map", Seed::Output("0xbfffffff", "0xcfffffff")),
    ("an order", Seed::Output("0x3f8 [48]", "0x3f8 [69]")),
    (
        "a call of the lab",
        Seed::File(RECORD, "VFIO_SET_IOMMU(", "VFIO_SET_IOMMUS("),
    ),
    (
        "a group of the lab",
        Seed::File(RECORD, "\\\"group\\\": 5", "\\\"group\\\": 7"),
    ),
    (
        "an end in the lab",
        Seed::File(RECORD, "\"status\": 1", "\"status\": 0"),
    ),
    (
        "a line of your own VMM",
        Seed::File(
            "docs/tour/vmm/src/own.rs",
            "register_irqfd(&interrupt, GSI)",
            "register_irqfd(&interrupt, 24)",
        ),
    ),
    (
        "a fault of the lab's IOMMU",
        Seed::File(RECORD, "fault addr 0x8000000", "fault addr 0x9000000"),
    ),
    (
        "a command of the lab in a chapter",
        Seed::File(
            "docs/tour/chapters/6-taking.md",
            "L1# mini-vmm host unbind 00:0b.0",
            "L1# mini-vmm host unbind 00:0c.0",
        ),
    ),
    (
        "a sentence that is translated",
        Seed::File(
            "docs/tour/chapters/2-machine.md",
            "There is nothing else.",
            "There is nothing more.",
        ),
    ),
    ("an end", Seed::Status("popcnt", 0)),
    (
        "an output in a chapter",
        Seed::File(
            "docs/tour/chapters/4-exit.md",
            "write port 0x600",
            "write port 0x601",
        ),
    ),
    (
        "a mark without an end",
        Seed::File(
            "docs/tour/chapters/4-exit.md",
            "<!-- end -->\n\nThe first",
            "\n\nThe first",
        ),
    ),
];

#[test]
fn each_seeded_change_is_found() {
    if !has_kvm() {
        return;
    }
    let known = run_all();
    for (what, seed) in SEEDS {
        let mut sources = Sources::new(root());
        let mut commands = Commands::new(root());
        commands.known.clone_from(&known);
        let mut changed = 0;
        match seed {
            Seed::File(path, old, new) => {
                let text = sources.read(path).unwrap();
                changed += text.matches(old).count();
                sources.instead.insert(path.into(), text.replace(old, new));
            }
            Seed::Output(old, new) => {
                for output in commands.known.values_mut() {
                    changed += output.text.matches(old).count();
                    output.text = output.text.replace(old, new);
                }
            }
            Seed::Status(of, status) => {
                let commands = commands.known.iter_mut();
                let of =
                    commands.filter(|(name, _)| name.contains(of) && name.contains("--kernel"));
                for (_, output) in of {
                    changed += 1;
                    output.status = status;
                }
            }
        }
        assert!(changed > 0, "{what}: the seed changes nothing");
        let outcome = compare(&sources, &mut commands);
        println!("{what}: {}", outcome.as_ref().unwrap_err());
        assert_eq!(
            commands.known.len(),
            known.len(),
            "{what}: a command ran again"
        );
    }
}

/// Each language has its first chapters whole, with the titles of all.
#[test]
fn translations_are_whole() {
    let sources = Sources::new(root());
    for (language, (first, last)) in catalog::LANGUAGES {
        let path = catalog::path(language);
        let translations = Catalog::parse(&sources.read(&path).unwrap()).unwrap();
        let chapters = CHAPTERS.iter().filter(|(n, _)| (first..=last).contains(n));
        let mut whole: Vec<_> = chapters
            .map(|(_, name)| format!("chapters/{name}"))
            .collect();
        whole.push("chapters/SUMMARY.md".into());
        let complaints = catalog::complaints(&translations, &whole);
        assert_eq!(complaints, Vec::<String>::new(), "{path}");
    }
}

#[test]
fn names_and_counts_are_never_replaced() {
    let text = fs::read_to_string(root().join("docs/tour/stable.txt")).unwrap();
    let stable = Stable::parse(&text).unwrap();
    let kept = "           6  read  port 0x3fd (serial port + 0x5)\n\
                exits to mini-vmm: 8\n\
                anon_inode:kvm-vcpu:0\n\
                KVM_EXIT_IO out 0x3f8 [48]\n\
                write memory 0xd8000000, 0xc0000000 and 0xfee00000\n\
                KVM cannot emulate an instruction (f3 0f b8 05), data 0x1\n";
    assert_eq!(stable.apply(kept), kept);
    let times = stable.apply("at 1.273 ms for 0.140 ms at 0x7f1234567890, 0x7efff887c000");
    let wanted = "at #.### ms for #.### ms at 0x7f##########, 0x7f##########";
    assert_eq!(times, wanted);
}

#[test]
fn exercises_have_solutions_and_their_mistakes_have_sentences() {
    if !has_kvm() {
        return;
    }
    Commands::new(root()).build().unwrap();
    // Some mistakes never end, and the checks wait for them: all exercises at once.
    thread::scope(|scope| {
        for exercise in &check::EXERCISES {
            if let Check::Here(check) = exercise.check {
                scope.spawn(move || answers(exercise, check));
            }
        }
    });
    let programs = Commands::new(root());
    let missing = check::exercise(2).map(|e| e.check(&root().join("nowhere.s"), &programs));
    let missing = missing.unwrap().unwrap_err();
    assert!(missing.contains("nowhere.s"), "{missing}");
}

/// Checks the solution, the gap and the wrong answers of an exercise.
fn answers(exercise: &Exercise, run: fn(&Path) -> Result<(), String>) {
    let folder = root().join(format!("docs/tour/exercises/{}", exercise.chapter));
    let try_out = |name: &str| run(&folder.join(name));
    let (_, end) = exercise.gap.split_once('.').unwrap();
    assert_eq!(try_out(&format!("solution.{end}")), Ok(()));
    assert!(try_out(exercise.gap).is_err(), "the gap is no answer");
    for number in 1..=5 {
        let name = format!("wrong-{number}.{end}");
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        assert_eq!(try_out(&name), Err(check::wanted(&text).unwrap()), "{name}");
    }
}

/// The table of contents has each chapter that is written, and links to no other.
#[test]
fn the_table_of_contents_is_honest() {
    let folder = root().join("docs/tour/chapters");
    let contents = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    let links = contents
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    let mut linked: Vec<_> = links
        .map(|(file, _)| file)
        .filter(|file| !file.is_empty())
        .collect();
    linked.sort_unstable();
    let files = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
    files.retain(|name| name != "SUMMARY.md");
    files.sort_unstable();
    assert_eq!(linked, files);
    for (number, name) in CHAPTERS {
        assert!(name.starts_with(&format!("{number}-")) && linked.contains(&name));
    }
}

/// The name that mdBook and GitHub give to a heading.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What is wrong with the links of a chapter.
fn broken_links(folder: &Path, text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut broken = Vec::new();
    for line in text.lines() {
        in_block ^= line.starts_with("```");
        let links = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'));
        for (link, _) in links.filter(|(link, _)| !in_block && !link.is_empty()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let found = match file {
                "" => Some(text.to_owned()),
                file => fs::read_to_string(folder.join(file)).ok(),
            };
            let has = |text: String| {
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                heading.is_empty() || headings.any(|h| slug(h.trim_matches('#')) == heading)
            };
            if !found.is_some_and(has) {
                broken.push(link.to_owned());
            }
        }
    }
    broken
}

/// What mdBook needs to build the book, without mdBook: it reads SUMMARY.md in `src`, makes no
/// missing file, and follows relative links.
#[test]
fn the_book_can_be_built() {
    let book = fs::read_to_string(root().join("docs/tour/book.toml")).unwrap();
    for line in ["src = \"chapters\"", "create-missing = false"] {
        assert!(book.lines().any(|l| l == line), "{line}");
    }
    let folder = root().join("docs/tour/chapters");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let broken = broken_links(&folder, &text);
        assert!(broken.is_empty(), "{}: {broken:?}", path.display());
    }
    let wrong = "# A b\n[x](nowhere.md) [y](#a-b) [z](#c) [u](README.md#c)";
    assert_eq!(
        broken_links(&folder, wrong),
        ["nowhere.md", "#c", "README.md#c"]
    );
}

#[test]
fn forty_lines_are_forty_and_your_own_vmm_has_200() {
    let text = fs::read_to_string(root().join("docs/tour/vmm/src/forty.rs")).unwrap();
    let code = text.lines().map(str::trim);
    let code = code.filter(|line| !line.is_empty() && !line.starts_with("//"));
    let count = code.count();
    assert!((38..=40).contains(&count), "{count}");
    let text = fs::read_to_string(root().join("docs/tour/vmm/src/own.rs")).unwrap();
    let code = text.lines().map(str::trim);
    let code = code.filter(|line| !line.is_empty() && !line.starts_with("//"));
    let count = code.count();
    assert!((150..=200).contains(&count), "{count}");
}
