//! `--html`: one page that shows a trace.

use std::fs;
use std::process::Stdio;

use super::run::{lines, summary, trace};
use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{PROGRAM, kernel};

const NOWHERE: u32 = 0xc000_0000;

/// The part of a page from an identifier to the end of its section.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let from = page.split(&format!("<section id={id}>")).nth(1);
    let from = from.unwrap_or_else(|| panic!("{id} is not in {page}"));
    from.split("</section>").next().unwrap()
}

#[test]
fn the_page_shows_timeline_maps_and_counts() {
    if !kvm() {
        return;
    }
    let guest = kernel(|g| {
        g.repeat(3, |g| {
            g.load32(NOWHERE);
        });
        g.print("ab").power_off();
    });
    let (out, html) = (TempFile::new(b""), TempFile::new(b""));
    let [out_path, html_path] = [&out, &html].map(|file| file.path().display().to_string());
    let path = guest.path().display().to_string();
    // The traced program chooses what stands in the page, above all its own words.
    let evil = "</code><script>alert(1)</script>";
    let command = [
        PROGRAM,
        "--kernel",
        &path,
        "--memory",
        "64M",
        "--cmdline",
        evil,
    ];
    let options = ["--json", "-o", &out_path, "--html", &html_path];
    let output = trace(&options, &command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let page = fs::read_to_string(html.path()).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(
        page.contains("&lt;script&gt;") && !page.contains("<script"),
        "{page}"
    );
    assert!(!page.contains("http://") && !page.contains("https://"));

    let maps = section(&page, "maps");
    let ram = "0–3ffffff, 64 MiB: slot 0: RAM<";
    for part in [
        ram,
        "64 MiB: guest RAM<",
        "c0000000–c0000003, 4 bytes: unnamed: 3 exits<",
    ] {
        assert!(maps.contains(part), "{part:?} is not in {maps}");
    }
    assert!(maps.contains("class=\"ribbon b-memory\""), "{maps}");
    let answers = section(&page, "answers");
    let row = "<code>c0000000–c0000003</code><td>not known<td>the VMM<td class=n>3<td class=n>0";
    assert!(answers.contains(row), "{answers}");
    for track in [">vcpu 0<", ">thread "] {
        assert!(section(&page, "timeline").contains(track), "{track}");
    }
    assert!(section(&page, "events").contains("<code>KVM_CREATE_VM("));
    assert!(section(&page, "events").contains("load c0000000.4 → ffffffff"));

    // The counts are those of the other output.
    let lines = lines(out.path());
    let summary = summary(&lines);
    let counts = section(&page, "counts");
    let total = format!("<td>in all<td class=n>{}", summary["exits"]["total"]);
    assert!(counts.contains(&total), "{total} is not in {counts}");
    let runs = summary["calls"].as_array().unwrap();
    let created = runs
        .iter()
        .find(|call| call["call"] == "KVM_CREATE_VCPU")
        .unwrap();
    let row = format!(
        "<code>KVM_CREATE_VCPU</code><td class=n>{}",
        created["count"]
    );
    assert!(counts.contains(&row), "{row} is not in {counts}");
}

#[test]
fn a_page_that_cannot_be_written_ends_before_the_command_starts() {
    let options = ["--html", "/nowhere/page.html"];
    let output = trace(&options, &["sh", "-c", "echo started"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("/nowhere/page.html cannot be written"),
        "{said}"
    );
}
