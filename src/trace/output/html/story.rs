//! What happened, in order. Runs of alike events are one row, and of a long trace the middle is
//! left out.

use std::collections::{HashMap, VecDeque};

use crate::event::{Body, Event};
use crate::output::html::escape::short;
use crate::output::html::rows::{key, text};

/// Rows from the start, and rows from the end.
const FIRST: usize = 1500;
const LAST: usize = 500;
/// A loop of so many kinds of events of one thread is one run for each kind.
const PERIOD: usize = 4;
/// Characters of a row.
const LENGTH: usize = 400;
/// The most threads whose runs are known.
const MOST: usize = 1 << 12;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// When the first event began.
    pub time: u64,
    /// The thread.
    pub tid: i32,
    /// The file.
    pub file: String,
    /// The first event.
    pub text: String,
    /// Whether it follows from an exit.
    pub below: bool,
    /// How many events.
    pub times: u64,
    /// The time of all.
    pub took: u64,
}

/// All rows.
#[derive(Debug, Default)]
pub struct Story {
    first: Vec<Row>,
    last: VecDeque<Row>,
    /// The number of rows that were begun.
    rows: usize,
    /// The events of those rows that are neither among the first nor among the last.
    left_out: u64,
    /// The keys and the numbers of each thread's last rows.
    recent: HashMap<i32, VecDeque<(u64, usize)>>,
}

impl Story {
    /// Adds an event.
    pub fn add(&mut self, event: &Event) {
        if matches!(event.body, Body::Entered) {
            return;
        }
        let key = key(event);
        let recent = self.recent.get(&event.tid);
        let known = recent.and_then(|recent| recent.iter().find(|(of, _)| *of == key));
        if let Some(number) = known.map(|(_, number)| *number)
            && let Some(row) = self.row(number)
        {
            row.times += 1;
            row.took = row.took.saturating_add(event.took);
            return;
        }
        self.begin(event, key);
    }

    fn row(&mut self, number: usize) -> Option<&mut Row> {
        match number.checked_sub(FIRST) {
            None => self.first.get_mut(number),
            Some(behind) => {
                let gone = self.rows - FIRST - self.last.len();
                self.last.get_mut(behind.checked_sub(gone)?)
            }
        }
    }

    fn begin(&mut self, event: &Event, key: u64) {
        if self.recent.len() >= MOST && !self.recent.contains_key(&event.tid) {
            self.recent.clear();
        }
        let recent = self.recent.entry(event.tid).or_default();
        if recent.len() == PERIOD {
            recent.pop_front();
        }
        recent.push_back((key, self.rows));
        self.rows += 1;
        let file = event.file.as_ref().map_or("", |file| file.name.as_str());
        let row = Row {
            time: event.time,
            tid: event.tid,
            file: short(file, LENGTH),
            text: short(&text(event), LENGTH),
            below: event.below,
            times: 1,
            took: event.took,
        };
        if self.first.len() < FIRST {
            self.first.push(row);
            return;
        }
        self.last.push_back(row);
        if self.last.len() > LAST {
            let gone = self.last.pop_front();
            self.left_out += gone.map_or(0, |row| row.times);
        }
    }

    /// The first rows, the number of events that are left out, and the last rows.
    pub fn parts(&self) -> (&[Row], u64, impl Iterator<Item = &Row>) {
        (&self.first, self.left_out, self.last.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(tid: i32, text: &str) -> Event {
        Event {
            time: 1,
            took: 2,
            pid: 1,
            tid,
            below: false,
            file: None,
            body: Body::Process(text.into()),
        }
    }

    #[test]
    fn loops_are_folded() {
        let mut story = Story::default();
        for _ in 0..1000 {
            for text in ["a", "b", "c"] {
                story.add(&event(1, text));
            }
            story.add(&event(2, "a"));
        }
        let (first, left_out, last) = story.parts();
        let rows: Vec<_> = first.iter().map(|r| (r.tid, &*r.text, r.times)).collect();
        let expected = [
            (1, "a", 1000),
            (1, "b", 1000),
            (1, "c", 1000),
            (2, "a", 1000),
        ];
        assert_eq!(rows, expected);
        assert_eq!((first[0].took, left_out, last.count()), (2000, 0, 0));
    }

    #[test]
    fn the_middle_is_left_out_and_counted() {
        let mut story = Story::default();
        for i in 0..10_000 {
            story.add(&event(1, &format!("event {i} {}", "x".repeat(10_000))));
        }
        // A run among the last rows goes on, and one that is left out begins anew.
        story.add(&event(
            1,
            &format!("event {} {}", 9_999, "x".repeat(10_000)),
        ));
        let (first, left_out, last) = story.parts();
        let last: Vec<_> = last.collect();
        assert_eq!((first.len(), last.len()), (FIRST, LAST));
        assert_eq!(left_out, 10_000 - (FIRST + LAST) as u64);
        assert_eq!(last[LAST - 1].times, 2);
        assert!(
            first
                .iter()
                .all(|row| row.text.chars().count() <= LENGTH + 1)
        );
        let all: u64 = first.iter().chain(last).map(|row| row.times).sum();
        assert_eq!(all + left_out, 10_001);
    }
}
