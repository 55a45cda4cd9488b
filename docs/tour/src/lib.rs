//! Weaves the tour's chapters: the output of each command, each figure and each piece of source is
//! made anew, so that a chapter cannot say what is no longer so.
//!
//! A chapter is Markdown in docs/tour/chapters. What is made stands between two comments:
//!
//! | comment | what follows it |
//! | --- | --- |
//! | `weave: run` | a block of commands (`$ ...`), each with its output |
//! | `weave: run status=1` | the same; the last command ends with this status |
//! | `weave: lab`, `weave: lab status=1` | the same in the emulated machine ([`lab`]): `L1# ...` |
//! | `weave: source FILE` | a whole file |
//! | `weave: source FILE ITEM` | an item of a Rust file: a name, or `Type::method` |
//! | `weave: source FILE ITEM from "A" to "B"` | its lines from one with A to the next with B |
//! | `weave: figure KIND: COMMAND` | a figure of what the command prints ([`figure`]) |
//! | `weave: lab-figure KIND: COMMAND` | the same of a command in the emulated machine |
//! | `end` | the author's text goes on |

pub mod book;
pub mod catalog;
pub mod check;
pub mod commands;
pub mod figure;
pub mod item;
pub mod lab;
pub mod messages;
pub mod pages;
pub mod record;
pub mod same;
pub mod stable;
pub mod weave;

use std::path::{Path, PathBuf};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path of a chapter's file.
pub fn chapter_path(name: &str) -> String {
    format!("docs/tour/chapters/{name}")
}

/// The chapters that are written, in order: number and file in docs/tour/chapters.
pub const CHAPTERS: [(u32, &str); 14] = [
    (1, "1-device.md"),
    (2, "2-machine.md"),
    (3, "3-memory.md"),
    (4, "4-exit.md"),
    (5, "5-pci.md"),
    (6, "6-taking.md"),
    (7, "7-dma.md"),
    (8, "8-registers.md"),
    (9, "9-interrupts.md"),
    (10, "10-boot.md"),
    (11, "11-back.md"),
    (12, "12-costs.md"),
    (13, "13-slices.md"),
    (14, "14-own.md"),
];
