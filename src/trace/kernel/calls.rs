//! The traced threads, and the kernel's own times of their calls, from raw_syscalls.
//!
//! A thread stops for the tracer before the kernel's record of a call's start, and after the record
//! of its end (kernel/entry/common.c, `syscall_trace_enter` and `syscall_exit_work`). So the
//! kernel's times of a call lie between the tracer's, and the call is the thread's only one there.

use std::collections::{HashMap, VecDeque};

/// How long a call may take before events that began later are shown.
pub const WAIT: u64 = 50_000_000;
/// How long a thread may handle an exit before events that are later than the exit are shown.
const HANDLE: u64 = 1_000_000_000;
/// The most calls of a thread that are kept. An older one has the tracer's times.
const CALLS: usize = 1 << 12;

/// A traced thread.
#[derive(Debug, Default)]
struct Thread {
    pid: i32,
    /// When the thread was seen to have ended.
    gone: Option<u64>,
    /// When the tracer saw the start of the call whose end it has not seen.
    inside: Option<u64>,
    /// When the tracer let the thread go on last.
    seen: u64,
    /// By the kernel: the start of the call that has not ended.
    entered: Option<u64>,
    /// By the kernel: start and end of calls.
    done: VecDeque<(u64, u64)>,
}

impl Thread {
    /// By the kernel: the first call that began at this time or later, and whether it has ended.
    fn first(&self, since: u64) -> Option<(u64, bool)> {
        let at = self.done.partition_point(|(entered, _)| *entered < since);
        let done = self.done.get(at).map(|(entered, _)| (*entered, true));
        done.or_else(|| Some((self.entered.filter(|entered| *entered >= since)?, false)))
    }

    /// The time before which nothing more of the thread's call is to come.
    fn open(&self, known: u64) -> Option<u64> {
        match self.first(self.inside?)? {
            (entered, true) => Some(entered),
            // A call that waits for long is not waited for.
            (entered, false) => (entered.saturating_add(WAIT) > known).then_some(entered),
        }
    }
}

/// The traced threads by number.
#[derive(Debug, Default)]
pub struct Calls(HashMap<i32, Thread>);

impl Calls {
    /// A thread is traced from now on, or has executed a program.
    pub fn born(&mut self, tid: i32, pid: i32, now: u64) {
        // Events may still need the calls before.
        let thread = self.0.entry(tid).or_default();
        thread.pid = pid;
        thread.gone = None;
        thread.inside = None;
        thread.seen = now;
    }

    /// A thread has ended. What the kernel has recorded of it may not have been read yet.
    pub fn gone(&mut self, tid: i32, now: u64) {
        if let Some(thread) = self.0.get_mut(&tid) {
            thread.gone = Some(now);
            thread.inside = None;
        }
    }

    /// A thread goes on, in a call that the tracer saw begin at this time, or in none whose end
    /// the tracer will see. All events before are told.
    pub fn goes_on(&mut self, tid: i32, begin: Option<u64>, now: u64) {
        if let Some(thread) = self.0.get_mut(&tid) {
            thread.inside = begin;
            thread.seen = now;
        }
    }

    /// When the tracer saw the start of the call that the thread is in.
    pub fn inside(&self, tid: i32) -> Option<u64> {
        self.0.get(&tid)?.inside
    }

    /// The process of a thread that was traced at this time.
    pub fn process(&self, tid: i32, time: u64) -> Option<i32> {
        let thread = self.0.get(&tid)?;
        thread
            .gone
            .is_none_or(|gone| time <= gone)
            .then_some(thread.pid)
    }

    /// Whether a thread has not come back to the tracer for long.
    pub fn is_slow(&self, tid: i32, now: u64) -> bool {
        let thread = self.0.get(&tid);
        thread.is_none_or(|thread| thread.seen.saturating_add(HANDLE) < now)
    }

    /// By the kernel: a thread enters a call.
    pub fn enter(&mut self, tid: i32, time: u64) {
        if let Some(thread) = self.0.get_mut(&tid) {
            thread.entered = Some(time);
        }
    }

    /// By the kernel: a thread leaves a call.
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

    /// The kernel's times of the call that the tracer has seen from `begin` to `end`.
    pub fn times(&self, tid: i32, begin: u64, end: u64) -> Option<(u64, u64)> {
        let done = &self.0.get(&tid)?.done;
        let at = done.partition_point(|(entered, _)| *entered < begin);
        let (entered, left) = *done.get(at)?;
        (left <= end).then_some((entered, left))
    }

    /// The time before which no call of a traced thread is to come, if the kernel's records are
    /// known until `known`. The tracer shows a call when it sees the call's end, however late.
    pub fn open(&self, known: u64) -> u64 {
        let open = self.0.values().filter_map(|thread| thread.open(known));
        open.min().unwrap_or(known).min(known)
    }

    /// Forgets the calls before `known` that no event needs any more, and threads that have ended.
    /// `needs` has the time since which an event of a thread may need its calls.
    pub fn forget(&mut self, known: u64, needs: &HashMap<i32, u64>) {
        self.0.retain(|tid, thread| {
            let since = needs.get(tid).copied().unwrap_or(u64::MAX);
            let since = since.min(thread.inside.unwrap_or(u64::MAX)).min(known);
            let old = thread.done.partition_point(|(entered, _)| *entered < since);
            thread.done.drain(..old);
            thread.gone.is_none_or(|gone| gone > known)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tid: i32, calls: &[(u64, u64)]) -> Calls {
        let mut all = Calls::default();
        all.born(tid, tid, 0);
        for (enter, exit) in calls {
            all.enter(tid, *enter);
            all.exit(tid, *exit);
        }
        all
    }

    #[test]
    fn the_kernels_times_are_inside_of_the_tracers() {
        let mut calls = of(7, &[(10, 20), (30, 40), (50, 60)]);
        calls.enter(7, 70);
        assert_eq!(calls.times(7, 28, 45), Some((30, 40)));
        assert_eq!(calls.times(7, 9, 21), Some((10, 20)), "in any order");
        assert_eq!(calls.times(7, 41, 49), None);
        assert_eq!(calls.times(7, 49, 61), Some((50, 60)));
        assert_eq!(calls.times(7, 65, 100), None, "the call goes on");
        assert_eq!(calls.times(9, 0, 100), None);
        // A lost record makes no call of two halves.
        calls.enter(7, 80);
        calls.exit(7, 90);
        assert_eq!(calls.times(7, 65, 75), None);
    }

    #[test]
    fn calls_of_other_threads_are_not_kept() {
        let mut calls = of(7, &[(10, 20)]);
        calls.enter(8, 10);
        calls.exit(8, 20);
        assert_eq!(calls.times(8, 0, 100), None);
        assert_eq!(calls.process(8, 15), None);
        assert_eq!(calls.process(7, 15), Some(7));
        calls.gone(7, 30);
        assert_eq!(calls.process(7, 30), Some(7));
        assert_eq!(calls.process(7, 31), None, "the number has a new owner");
        calls.forget(29, &HashMap::new());
        assert_eq!(calls.process(7, 30), Some(7));
        calls.forget(30, &HashMap::new());
        assert!(calls.0.is_empty());
    }

    #[test]
    fn what_an_event_may_need_is_kept_and_no_more() {
        let mut calls = of(7, &[(10, 20), (30, 40), (50, 60)]);
        calls.forget(100, &HashMap::from([(7, 25)]));
        assert_eq!(calls.times(7, 5, 21), None);
        assert_eq!(calls.times(7, 25, 41), Some((30, 40)));
        calls.goes_on(7, Some(45), 45);
        calls.forget(100, &HashMap::new());
        assert_eq!(calls.0[&7].done, [(50, 60)]);
        for i in 0..2 * CALLS as u64 {
            calls.enter(7, 100 + 2 * i);
            calls.exit(7, 101 + 2 * i);
        }
        assert_eq!(calls.0[&7].done.len(), CALLS);
    }

    #[test]
    fn an_ended_call_is_waited_for_however_late_the_tracer_is() {
        let mut calls = of(7, &[(10, 20)]);
        let late = 100 * WAIT;
        assert_eq!(calls.open(late), late, "the tracer has not seen its start");
        calls.goes_on(7, Some(5), 5);
        assert_eq!(calls.open(late), 10);
        calls.goes_on(7, None, late);
        assert_eq!(calls.open(late), late);
        // One that goes on is waited for by the kernel's clock alone.
        calls.goes_on(7, Some(25), 25);
        assert_eq!(calls.open(late), late, "the kernel has no record of it");
        calls.enter(7, 30);
        assert_eq!(calls.open(29 + WAIT), 30);
        assert_eq!(calls.open(30 + WAIT), 30 + WAIT);
        calls.exit(7, 31 + WAIT);
        assert_eq!(calls.open(late), 30);
        calls.gone(7, late);
        assert_eq!(calls.open(late), late);
    }
}
