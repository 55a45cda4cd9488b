//! The book walks the files of docs/reading.md in its order: one tour, not two.

use std::path::Path;

use tour::weave::Sources;
use tour::{CHAPTERS, chapter_path, root};

/// A heading of docs/reading.md: the chapter, and the files that it passes.
type Part = (u32, Vec<String>);

/// The parts of the reading tour, in order.
fn parts(page: &str) -> Vec<Part> {
    let (_, tour) = page.split_once("\n## The tour\n").unwrap();
    let (tour, _) = tour.split_once("\n## ").unwrap();
    let part = |text: &str| {
        let (number, rest) = text.split_once(':')?;
        let files = rest.split('`').skip(1).step_by(2);
        let files = files.filter(|word| word.starts_with("src/") && word.ends_with(".rs"));
        Some((number.parse().ok()?, files.map(str::to_owned).collect()))
    };
    let headings = tour.split("\n### ").skip(1);
    let headings = headings.map(|text| text.strip_prefix("Chapter ").and_then(part));
    headings
        .map(|part| part.expect("a heading is `Chapter N: ...`"))
        .collect()
}

/// What a chapter quotes or links to, in order: paths of the workspace.
fn passed(chapter: &str) -> Vec<&str> {
    let links = chapter.split("](../../../").skip(1);
    links
        .filter_map(|rest| Some(rest.split_once([')', '#'])?.0))
        .collect()
}

/// The first thing that is wrong with the order. `text_of` gives the text of a chapter, and `None`
/// for one that is not written yet.
fn wrong(parts: &[Part], text_of: impl Fn(u32) -> Option<String>) -> Option<String> {
    let mut last = 0;
    for (chapter, files) in parts {
        if *chapter <= last {
            return Some(format!("chapter {chapter} comes after {last}"));
        }
        last = *chapter;
        let Some(text) = text_of(*chapter) else {
            continue;
        };
        let mut passed = passed(&text).into_iter();
        for file in files {
            if !passed.any(|path| path == file) {
                return Some(format!("chapter {chapter} does not pass {file} here"));
            }
        }
    }
    None
}

#[test]
fn the_book_walks_the_files_of_the_reading_tour() {
    let sources = Sources::new(root());
    let page = sources.read("docs/reading.md").unwrap();
    let parts = parts(&page);
    let files: Vec<_> = parts.iter().flat_map(|(_, files)| files).collect();
    assert_eq!(files.len(), 20);
    assert!(
        files
            .iter()
            .all(|file| Path::new(&root()).join(file).is_file())
    );
    let contents = sources.read("docs/tour/chapters/SUMMARY.md").unwrap();
    let entries: Vec<_> = contents
        .lines()
        .filter(|line| line.starts_with("- ["))
        .collect();
    let text_of = |number: u32| {
        let written = CHAPTERS.iter().find(|(chapter, _)| *chapter == number);
        // A chapter is missing only as long as the table of contents says so.
        let entry = entries.get(number as usize - 1).unwrap();
        assert_eq!(written.is_none(), entry.ends_with("]()"), "{entry}");
        written.map(|(_, name)| sources.read(&chapter_path(name)).unwrap())
    };
    assert_eq!(wrong(&parts, text_of), None);

    // What is wrong is found: a file that a chapter does not pass, and another order of chapters.
    for chapter in 0..parts.len() {
        let (number, _) = &parts[chapter];
        if text_of(*number).is_some() {
            let mut seeded = parts.clone();
            seeded[chapter].1.push("src/main.rs".into());
            assert!(wrong(&seeded, text_of).is_some(), "{number}");
        }
    }
    let mut seeded = parts.clone();
    seeded.swap(0, 1);
    assert!(wrong(&seeded, text_of).is_some());
}

#[test]
fn another_order_is_found() {
    let text = "[a](../../../src/a.rs) and [b](../../../src/b.rs#c)";
    let part = |files: [&str; 2]| vec![(2, files.map(str::to_owned).to_vec())];
    let of = |files| wrong(&part(files), |_| Some(text.to_owned()));
    assert_eq!(of(["src/a.rs", "src/b.rs"]), None);
    let told = of(["src/b.rs", "src/a.rs"]).unwrap();
    assert_eq!(told, "chapter 2 does not pass src/a.rs here");
}
