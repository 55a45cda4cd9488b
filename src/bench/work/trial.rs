//! All work of a turn. The host and each guest call this.

use std::fs::File;
use std::net::SocketAddrV4;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::stats::latency::Latencies;
use crate::work::task::{Engine, IDLE, Message, Sample, Task, Work};
use crate::work::window::Window;
use crate::work::{exchange, fingerprint, holds, queues, threads, uring, writes};

/// How long a subject is idle before and after each kind of work of a timed turn, so that KVM's
/// totals can be read from outside.
pub const SETTLING: Duration = Duration::from_millis(50);

/// What the work is done on.
pub enum Opened {
    /// An open disk.
    Disk(File),
    /// The other end of a network port's link.
    Peer(SocketAddrV4),
    /// A function that is neither disk nor port.
    Function,
}

/// Does the work of a turn. `tell` gets what there is to say. `seed` chooses the
/// blocks: no two turns of a run read the same ones, so none finds them in a cache of the disk.
///
/// # Errors
/// The disk cannot be read or written, has other content than was written, or `stop` was set.
pub fn work(
    task: &Task,
    opened: Opened,
    seed: u64,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Message),
) -> Result<()> {
    let site = Site::new(task, opened)?;
    if let Site::Disk(disk) = &site {
        let (sha256, zeros, blocks) = fingerprint::read(&disk.file, disk.bytes)?;
        tell(Message::Content {
            sha256,
            zeros,
            blocks,
        });
    }
    for (number, work) in (1..).zip(&task.works) {
        tell(Message::Start {
            work: work.name.clone(),
        });
        thread::sleep(SETTLING);
        let seed = seed.wrapping_mul(1000).wrapping_add(number);
        let window = Window::start(task, stop);
        let (times, lost) = site.run(work, seed, window)?;
        tell(Message::Stopped {
            work: work.name.clone(),
            reads: times.all(),
        });
        thread::sleep(SETTLING);
        let sample = Sample::of(work, &times, window.seconds()?);
        tell(Message::Done(Sample { lost, ..sample }));
    }
    if let Site::Disk(disk) = &site
        && let Some(sha256) = disk.leave(seed)?
    {
        tell(Message::Left { sha256 });
    }
    tell(Message::End);
    Ok(())
}

/// Does the work of a pass that counts: `pause` before and after each kind of work, the guest
/// sleeps, so that its costs can be read. A window without reads comes first.
///
/// # Errors
/// As for [`work`].
pub fn count(
    task: &Task,
    opened: Opened,
    seed: u64,
    pause: Duration,
    tell: &mut dyn FnMut(Message),
) -> Result<()> {
    let site = Site::new(task, opened)?;
    let never = AtomicBool::new(false);
    let mut window = |name: &str, reads: &mut dyn FnMut() -> Result<u64>| -> Result<()> {
        let work = name.to_owned();
        tell(Message::Start { work: work.clone() });
        thread::sleep(pause);
        let reads = reads()?;
        tell(Message::Stopped { work, reads });
        thread::sleep(pause);
        Ok(())
    };
    window(IDLE, &mut || {
        thread::sleep(Duration::from_millis(task.warm_up_ms + task.measure_ms));
        Ok(0)
    })?;
    for work in &task.works {
        window(&work.name, &mut || {
            let window = Window::start(task, &never).count_all();
            Ok(site.run(work, seed, window)?.0.len())
        })?;
    }
    tell(Message::End);
    Ok(())
}

/// Where the work of a turn is done.
enum Site<'a> {
    Disk(Disk<'a>),
    Peer(SocketAddrV4),
    Function,
}

impl<'a> Site<'a> {
    fn new(task: &'a Task, opened: Opened) -> Result<Self> {
        Ok(match opened {
            Opened::Disk(file) => Self::Disk(Disk::new(task, file)?),
            Opened::Peer(peer) => Self::Peer(peer),
            Opened::Function => Self::Function,
        })
    }

    /// Does a kind of work. Returns its times, and the packets that were lost.
    fn run(&self, work: &Work, seed: u64, window: Window<'_>) -> Result<(Latencies, u64)> {
        match (self, work.traffic) {
            (Self::Disk(disk), None) => Ok((disk.run(work, seed, window)?, 0)),
            (Self::Peer(peer), Some(traffic)) => exchange::run(*peer, work, traffic, window),
            _ => Err(Error::new("the work is of another kind of device")),
        }
    }
}

/// The disk during a turn.
struct Disk<'a> {
    file: File,
    bytes: u64,
    task: &'a Task,
}

impl<'a> Disk<'a> {
    fn new(task: &'a Task, file: File) -> Result<Self> {
        let bytes = holds::size(&file)?;
        if task.destroy.is_some() {
            holds::nothing(&file)?;
        }
        Ok(Self { file, bytes, task })
    }

    /// Does a kind of work, and checks what it has written.
    fn run(&self, work: &Work, seed: u64, window: Window<'_>) -> Result<Latencies> {
        let area = writes::area(work, self.bytes)?;
        let (times, written) = queues::run(work.queues, |part| match self.task.engine {
            Engine::IoUring => uring::run(&self.file, &area, work, seed, (part, window)),
            Engine::Threads => threads::run(&self.file, &area, work, seed, (part, window)),
        })?;
        written
            .iter()
            .try_for_each(|writes| writes.check(&self.file, &window))?;
        Ok(times)
    }

    /// Gives the disk content that the next subject must find: new blocks, which the disk has for
    /// good. Nothing is written if there is no work that writes.
    fn leave(&self, seed: u64) -> Result<Option<String>> {
        let Some(work) = self.task.works.iter().find(|work| work.writes > 0) else {
            return Ok(None);
        };
        let area = writes::area(work, self.bytes)?;
        fingerprint::write(&self.file, self.bytes, &area, seed)?;
        self.file
            .sync_all()
            .context("cannot flush the disk's cache")?;
        Ok(Some(fingerprint::read(&self.file, self.bytes)?.0))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::work::disk;
    use crate::work::task::{DiskId, FunctionId, Order, Target, Work};

    /// Times of a measurement, each tried if the one before it was too short for a disk that is
    /// busy with other work.
    const WINDOWS: [u64; 3] = [20, 500, 10_000];

    fn open(task: &Task, path: &Path) -> Opened {
        Opened::Disk(disk::open(path, task.destroy.is_some()).unwrap())
    }

    /// A file stands for the disk. It lies beside this program, on a file system that has direct
    /// reads.
    #[test]
    fn both_engines_read_the_same_content() {
        let name = format!("turn-{}", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        fs::write(&path, vec![7; 4 << 20]).unwrap();
        let mut contents = Vec::new();
        let rings = uring::is_there().then_some(Engine::IoUring);
        for engine in [Some(Engine::Threads), rings].into_iter().flatten() {
            let mut task = Task {
                works: vec![
                    Work::new(4, 1, Order::Random),
                    Work::new(4, 32, Order::Random),
                    Work::new(128, 4, Order::Sequential),
                    Work::new(4, 8, Order::Random).on_each_cpu(),
                ],
                warm_up_ms: 5,
                measure_ms: 20,
                engine,
                target: Target::Disk(DiskId {
                    wwid: None,
                    sectors: 8192,
                }),
                function: FunctionId::default(),
                destroy: None,
            };
            let mut samples = Vec::new();
            for window in WINDOWS {
                task.measure_ms = window;
                samples.clear();
                let mut tell = |message| match message {
                    Message::Content { sha256, zeros, .. } => contents.push((sha256, zeros)),
                    Message::Done(sample) => samples.push(sample),
                    _ => {}
                };
                let file = open(&task, &path);
                work(&task, file, 5, &AtomicBool::new(false), &mut tell).unwrap();
                if samples.iter().all(|sample| sample.operations > 0) {
                    break;
                }
            }
            assert_eq!(samples.len(), 4);
            for sample in samples {
                let counted: u64 = sample.histogram.iter().map(|(_, count)| count).sum();
                assert!(
                    sample.operations > 0 && counted == sample.operations,
                    "{sample:?}"
                );
            }
            let stopped = work(
                &task,
                open(&task, &path),
                5,
                &AtomicBool::new(true),
                &mut |_| {},
            );
            assert!(stopped.unwrap_err().is_interrupted());
        }
        assert!(contents.iter().all(|content| *content == contents[0]));
        assert_eq!(contents[0].1, 0);
        fs::remove_file(&path).unwrap();
    }

    /// Making 16 MiB takes milliseconds, and writing them to the null device none.
    #[test]
    fn making_the_data_is_no_part_of_an_operation() {
        let file = fs::OpenOptions::new()
            .write(true)
            .open("/dev/null")
            .unwrap();
        let work = Work::writing(16 << 10, 1, Order::Sequential, 100);
        let mut task = writing(Engine::Threads, Some("S"));
        (task.warm_up_ms, task.measure_ms) = (0, 500);
        let area = 0..1 << 30;
        let made = {
            let content = super::super::content::Content::new(1, work.block as usize);
            let mut block = vec![0; work.block as usize];
            content.fill(0, &mut block);
            let begun = std::time::Instant::now();
            content.fill(0, &mut block);
            begun.elapsed()
        };
        let rings = uring::is_there().then_some(Engine::IoUring);
        for engine in [Some(Engine::Threads), rings].into_iter().flatten() {
            let never = AtomicBool::new(false);
            let window = Window::start(&task, &never);
            let part = queues::Part { number: 0, of: 1 };
            let (times, _) = match engine {
                Engine::Threads => threads::run(&file, &area, &work, 1, (part, window)).unwrap(),
                Engine::IoUring => uring::run(&file, &area, &work, 1, (part, window)).unwrap(),
            };
            let median = Duration::from_nanos(times.median().unwrap());
            assert!(median < made / 4, "{engine:?}: {median:?} of {made:?}");
        }
    }

    /// The host may format the disk between two turns.
    #[test]
    fn a_disk_that_was_formatted_meanwhile_is_not_written_to() {
        let name = format!("formatted-{}", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        let mut bytes = vec![7; 20 << 20];
        bytes[..4].copy_from_slice(b"XFSB");
        fs::write(&path, &bytes).unwrap();
        let task = writing(Engine::Threads, Some("S"));
        let (never, pause) = (AtomicBool::new(false), Duration::ZERO);
        let worked = work(&task, open(&task, &path), 1, &never, &mut |_| {});
        let counted = count(&task, open(&task, &path), 1, pause, &mut |_| {});
        let same = fs::read(&path).unwrap() == bytes;
        // Reads alone do no harm.
        let mut reads = writing(Engine::Threads, None);
        reads.works.iter_mut().for_each(|work| work.writes = 0);
        let read = work(&reads, open(&reads, &path), 1, &never, &mut |_| {});
        fs::remove_file(&path).unwrap();
        for refused in [worked, counted] {
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("an XFS file system (at byte 0)"), "{said}");
        }
        assert!(same);
        read.unwrap();
    }

    /// What writes.
    fn writing(engine: Engine, destroy: Option<&str>) -> Task {
        Task {
            works: vec![
                Work::writing(4, 1, Order::Random, 100),
                Work::writing(4, 8, Order::Random, 30),
                Work::writing(128, 4, Order::Sequential, 100),
                Work::writing(4, 4, Order::Random, 50).on_each_cpu(),
            ],
            warm_up_ms: 5,
            measure_ms: 20,
            engine,
            target: Target::Disk(DiskId {
                wwid: None,
                sectors: 40_960,
            }),
            function: FunctionId::default(),
            destroy: destroy.map(str::to_owned),
        }
    }

    /// Both engines write, both find their own content again, and a subject finds what the one
    /// before it has left. Neither end of the disk is written to.
    #[test]
    fn writes_are_read_again() {
        let name = format!("writes-{}", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        let size = 20 << 20;
        fs::write(&path, vec![7; size]).unwrap();
        let rings = uring::is_there().then_some(Engine::IoUring);
        let never = AtomicBool::new(false);
        let mut left: Option<String> = None;
        for (seed, engine) in (1..).zip([Some(Engine::Threads), rings].into_iter().flatten()) {
            let mut samples = 0;
            for (number, window) in (0..).zip(WINDOWS) {
                let (mut found, mut leaves) = (None, None);
                samples = 0;
                let mut tell = |message| match message {
                    Message::Content { sha256, .. } => found = Some(sha256),
                    Message::Left { sha256 } => leaves = Some(sha256),
                    Message::Done(sample) => samples += usize::from(sample.operations > 0),
                    _ => {}
                };
                let mut task = writing(engine, Some("S"));
                task.measure_ms = window;
                let seed = seed + 10 * number;
                work(&task, open(&task, &path), seed, &never, &mut tell).unwrap();
                assert!(left.is_none() || left == found);
                assert!(leaves.is_some() && leaves != found);
                left = leaves;
                if samples == 4 {
                    break;
                }
            }
            assert_eq!(samples, 4);
            // Without the serial number, the same work cannot write.
            let before = fs::read(&path).unwrap();
            let task = writing(engine, None);
            let refused = work(&task, open(&task, &path), seed, &never, &mut |_| {});
            assert!(refused.is_err() && fs::read(&path).unwrap() == before);
        }
        let task = writing(Engine::Threads, Some("S"));
        let mut told = 0;
        let pause = Duration::from_millis(1);
        count(&task, open(&task, &path), 9, pause, &mut |_| told += 1).unwrap();
        assert_eq!(told, 2 * 5 + 1);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (start, rest) = bytes.split_at(8 << 20);
        let (middle, end) = rest.split_at(rest.len() - (1 << 20));
        assert!(start.iter().chain(end).all(|byte| *byte == 7));
        assert!(middle.iter().any(|byte| *byte != 7));
    }
}
