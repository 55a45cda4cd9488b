//! The kernel's own times of calls, from raw_syscalls.

use std::collections::{HashMap, VecDeque};

/// The most threads of the host whose calls are kept, and the most calls of one.
const THREADS: usize = 1 << 16;
const CALLS: usize = 1 << 12;

/// The calls of a thread.
#[derive(Debug, Default)]
struct Thread {
    entered: Option<u64>,
    done: VecDeque<(u64, u64)>,
}

/// The calls of all threads of the host, from which those of the traced ones are taken.
#[derive(Debug, Default)]
pub struct Calls(HashMap<i32, Thread>);

impl Calls {
    /// A thread enters a call.
    pub fn enter(&mut self, tid: i32, time: u64) {
        if self.0.len() < THREADS || self.0.contains_key(&tid) {
            self.0.entry(tid).or_default().entered = Some(time);
        }
    }

    /// A thread leaves a call.
    pub fn exit(&mut self, tid: i32, time: u64) {
        let Some(thread) = self.0.get_mut(&tid) else {
            return;
        };
        if let Some(entered) = thread.entered.take() {
            if thread.done.len() == CALLS {
                thread.done.pop_front();
            }
            thread.done.push_back((entered, time));
        }
    }

    /// Forgets threads that have made no call since `time`, but those that are `traced`.
    pub fn forget(&mut self, time: u64, traced: impl Fn(i32) -> bool) {
        self.0.retain(|tid, thread| {
            let last = thread.done.back().map(|(_, left)| *left);
            traced(*tid) || thread.entered.max(last).is_some_and(|last| last >= time)
        });
    }

    /// The kernel's times of the call that the tracer has seen from `begin` to `end`. The tracer
    /// stops a thread before the kernel's first time and after its second one, so the call is the
    /// only one of the thread between.
    pub fn take(&mut self, tid: i32, begin: u64, end: u64) -> Option<(u64, u64)> {
        let done = &mut self.0.get_mut(&tid)?.done;
        while done.front().is_some_and(|(entered, _)| *entered < begin) {
            done.pop_front();
        }
        let (entered, left) = *done.front()?;
        (left <= end).then_some((entered, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_times_are_inside_of_the_tracers() {
        let mut calls = Calls::default();
        for (enter, exit) in [(10, 20), (30, 40), (50, 60)] {
            calls.enter(7, enter);
            calls.exit(7, exit);
        }
        calls.enter(8, 31);
        assert_eq!(calls.take(7, 28, 45), Some((30, 40)));
        assert_eq!(
            calls.take(7, 28, 45),
            Some((30, 40)),
            "one call may be two events"
        );
        assert_eq!(calls.take(7, 41, 49), None);
        assert_eq!(calls.take(7, 49, 61), Some((50, 60)));
        assert_eq!(calls.take(8, 0, 100), None, "it goes on");
        assert_eq!(calls.take(9, 0, 100), None);
    }

    #[test]
    fn a_host_with_many_threads_costs_no_times_of_the_traced_one() {
        let mut calls = Calls::default();
        for (enter, exit) in [(10, 20), (30, 40)] {
            calls.enter(7, enter);
            calls.exit(7, exit);
        }
        for i in 0..2 * THREADS as i32 {
            calls.enter(1000 + i, 50);
        }
        assert_eq!(calls.0.len(), THREADS);
        calls.forget(60, |tid| tid == 7);
        assert_eq!(calls.0.len(), 1);
        assert_eq!(calls.take(7, 9, 21), Some((10, 20)));
        calls.forget(40, |_| false);
        assert_eq!(calls.take(7, 29, 41), Some((30, 40)));
        for i in 0..2 * CALLS as u64 {
            calls.enter(7, 100 + 2 * i);
            calls.exit(7, 101 + 2 * i);
        }
        assert_eq!(calls.0[&7].done.len(), CALLS);
    }
}
