//! The text of `mini-vmm trace`, made stable: ordered by file, without what differs from run to
//! run.

use std::collections::BTreeMap;

use regex_lite::{Captures, Regex};

/// The order of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That in which they began.
    Time,
    /// First those of the thread that was made first, and so on: what several threads do at once
    /// has no order in time.
    Thread,
}

/// Makes a transcript of a trace: for each file, in the order in which files appear, its lines in
/// an order. The counts at the end are left out. `patterns` are lines `PATTERN => REPLACEMENT`.
///
/// # Panics
/// A line or a pattern is not understood.
pub fn transcript(trace: &str, patterns: &str, order: Order) -> String {
    let line = Regex::new(concat!(
        r"^ *([0-9]+\.[0-9]{6}) +([0-9]+) ",
        r"((?:vm [0-9]+ )?(?:(?:device|group|vcpu|eventfd) [^ ]+|container(?: [0-9]+)?",
        r"|iommufd(?: [0-9]+)?|vm(?: [0-9]+)?|kvm[-a-z]*|vfio[-a-z]*|)) +([^ ].*)$",
    ))
    .unwrap();
    let lines = trace.lines().take_while(|line| !line.is_empty());
    let mut lines: Vec<Line> = lines
        .map(|text| {
            let parts = line.captures(text);
            let parts = parts.unwrap_or_else(|| panic!("no line of a trace: {text}"));
            let time: f64 = parts[1].parse().unwrap();
            let thread: u32 = match order {
                Order::Time => 0,
                Order::Thread => parts[2].parse().unwrap(),
            };
            (thread, time, parts[3].to_string(), parts[4].to_string())
        })
        .collect();
    if order == Order::Thread {
        put_before_exits(&mut lines);
    }
    // Two threads that use one file are shown in the order in which their calls end.
    lines.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut numbers = Numbers::default();
    let mut names: Vec<String> = Vec::new();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for (_, _, file, text) in lines {
        let file = match file.as_str() {
            "" => "the process".into(),
            file => numbers.replace(file),
        };
        let text = numbers.replace(&text);
        if !files.contains_key(&file) {
            names.push(file.clone());
        }
        let lines = files.entry(file).or_default();
        *lines += &format!("  {text}\n");
    }
    let blocks = names.iter().map(|file| format!("{file}\n{}", files[file]));
    let text: Vec<_> = blocks.collect();
    stable(&text.join("\n"), patterns)
}

/// A line of a trace: thread, time, file, text.
type Line = (u32, f64, String, String);

/// Gives a write that KVM has kept the thread and the time of the exit that follows. Any thread of
/// the program may have been the first to stop after the write.
fn put_before_exits(lines: &mut [Line]) {
    let mut exit = None;
    for (thread, time, file, text) in lines.iter_mut().rev() {
        if text.starts_with("coalesced ") {
            (*thread, *time) = exit.unwrap_or((*thread, *time));
        } else if file.starts_with("vcpu ") {
            exit = Some((*thread, *time));
        }
    }
}

/// Numbers of eventfds in the order in which they appear: the kernel's ids differ from run to run,
/// but which of them are one stays to be seen.
#[derive(Default)]
struct Numbers(BTreeMap<String, usize>);

impl Numbers {
    fn replace(&mut self, text: &str) -> String {
        let name = Regex::new(r"eventfd ([0-9]+)\b").unwrap();
        let number = |found: &Captures<'_>| {
            let next = self.0.len() + 1;
            let number = *self.0.entry(found[1].into()).or_insert(next);
            format!("eventfd {number}")
        };
        name.replace_all(text, number).into_owned()
    }
}

/// Replaces what differs from run to run.
///
/// # Panics
/// A pattern is not understood.
pub fn stable(text: &str, patterns: &str) -> String {
    let lines = patterns.lines();
    let lines = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.fold(text.to_string(), |text, line| {
        let parts = line
            .split_once(" => ")
            .or_else(|| Some((line.strip_suffix(" =>")?, "")));
        let (pattern, by) = parts.unwrap_or_else(|| panic!("no pattern: {line}"));
        let pattern = Regex::new(&format!("(?m){pattern}"));
        let pattern = pattern.unwrap_or_else(|e| panic!("{line}: {e}"));
        pattern.replace_all(&text, by).into_owned()
    })
}
