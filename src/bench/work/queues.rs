//! Work on one queue of the disk, or on as many as there are CPUs: the kernel's block layer has a
//! queue for each CPU, as far as the disk has as many (Documentation/block/blk-mq.rst).

use std::io;
use std::thread::{self, ScopedJoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Context, Error, Result};
use crate::stats::latency::Latencies;
use crate::work::task::Queues;
use crate::work::writes::Writes;

/// One of the parts that work at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its number, from 0 on.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

/// What a part has done: its times, and what it has written.
pub(super) type Done = (Latencies, Vec<Writes>);

/// Does the work of each part, on a CPU of its own if there are several.
pub(super) fn run(queues: Queues, part: impl Fn(Part) -> Result<Done> + Sync) -> Result<Done> {
    if queues == Queues::One {
        return part(Part { number: 0, of: 1 });
    }
    let allowed = sched_getaffinity(None).context("cannot read the CPUs of this process")?;
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let of = cpus.len() as u32;
    let part = &part;
    thread::scope(|scope| {
        let all: Vec<_> = (0..of)
            .zip(cpus)
            .map(|(number, cpu)| {
                thread::Builder::new().spawn_scoped(scope, move || {
                    let mut own = CpuSet::new();
                    own.set(cpu);
                    // Threads that this one starts stay on the CPU, too (sched_setaffinity(2)).
                    sched_setaffinity(None, &own).context(format!("cannot use CPU {cpu} alone"))?;
                    part(Part { number, of })
                })
            })
            .collect();
        gather(all)
    })
}

/// Waits for threads, and puts together what they have done.
pub(super) fn gather(threads: Vec<io::Result<ScopedJoinHandle<'_, Result<Done>>>>) -> Result<Done> {
    let (mut times, mut writes) = (Latencies::default(), Vec::new());
    for thread in threads {
        let thread = thread.context("cannot start a thread")?;
        let done = thread.join().map_err(|_| Error::new("a thread failed"))?;
        let (part, wrote) = done?;
        times.merge(&part);
        writes.extend(wrote);
    }
    Ok((times, writes))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_part_has_a_cpu_of_its_own() {
        let seen = Mutex::new(Vec::new());
        let part = |part: Part| {
            let set = sched_getaffinity(None).unwrap();
            let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect();
            seen.lock().unwrap().push((part.number, part.of, cpus));
            let mut times = Latencies::default();
            times.add(1);
            Ok((times, Vec::new()))
        };
        let (times, _) = run(Queues::EachCpu, part).unwrap();
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort();
        let count = seen.len();
        assert_eq!(times.len(), count as u64);
        for (number, (part, of, cpus)) in seen.iter().enumerate() {
            assert_eq!((*part as usize, *of as usize), (number, count));
            assert_eq!(cpus.len(), 1);
        }
        assert!(seen.windows(2).all(|pair| pair[0].2 < pair[1].2));
        // One queue keeps the CPUs as they are.
        let one = run(Queues::One, |part| {
            assert_eq!(part, Part { number: 0, of: 1 });
            Err(Error::new("no"))
        });
        assert!(one.is_err());
        let failed = run(Queues::EachCpu, |_| Err(Error::new("no")));
        assert_eq!(failed.err().map(|e| e.to_string()).as_deref(), Some("no"));
    }
}
