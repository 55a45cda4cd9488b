//! Reads a disk with direct I/O and measures the time of each read: small reads at random offsets,
//! one at a time and 32 at a time, and large reads in order. For 32 reads at a time, each of 32
//! threads waits for its own read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use bench::error::{Context, Error, Result};
use lab::random::Random;

const BLOCK: usize = 4096;
const LARGE: usize = 128 << 10;
const DEPTH: usize = 32;

/// The results of one kind of read.
struct Done {
    took: Duration,
    bytes: usize,
    each: Vec<Duration>,
}

/// A window in which the guest makes one kind of read. `probe watch` compares the VMM's counters
/// before and after the window.
pub enum Window {
    /// The window of this name begins.
    Begin(&'static str),
    /// The window ends.
    End,
}

/// Makes all kinds of reads, with `count` small reads of each kind. Calls `window` at the beginning
/// and the end of each kind.
pub fn all(disk: &str, count: usize, window: &mut dyn FnMut(Window)) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk)
        .context(format!("open {disk}"))?;
    let blocks = usize::try_from(size(&file)?).context("size the disk")? / BLOCK;
    if blocks == 0 {
        return Err(Error::new(format!("{disk} is empty")));
    }
    type Job<'a> = (&'static str, Box<dyn Fn() -> Result<Done> + 'a>);
    let jobs: [Job<'_>; 4] = [
        // The idle window measures the cost of a window itself.
        ("idle", Box::new(|| Ok(idle()))),
        ("qd1", Box::new(|| random(&file, blocks, count, 1))),
        ("qd32", Box::new(|| random(&file, blocks, count, DEPTH))),
        ("seq", Box::new(|| in_order(&file, blocks, count))),
    ];
    for (name, job) in jobs {
        window(Window::Begin(name));
        let done = job()?;
        window(Window::End);
        say(name, done);
    }
    Ok(())
}

fn say(name: &str, mut done: Done) {
    let count = done.each.len();
    if count == 0 {
        return;
    }
    done.each.sort_unstable();
    let micros = |fraction: f64| {
        let position = (fraction * (count - 1) as f64) as usize;
        done.each[position].as_secs_f64() * 1e6
    };
    let seconds = done.took.as_secs_f64();
    println!(
        "L2: {name} count={count} p50={:.1} p99={:.1} iops={:.1} mibs={:.2}",
        micros(0.5),
        micros(0.99),
        count as f64 / seconds,
        done.bytes as f64 / f64::from(1 << 20) / seconds
    );
}

fn idle() -> Done {
    thread::sleep(Duration::from_millis(500));
    Done {
        took: Duration::ZERO,
        bytes: 0,
        each: Vec::new(),
    }
}

fn size(file: &File) -> Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0)).context("find the disk's end")
}

/// Memory at an address that is aligned for direct I/O.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Buffer {
    fn new(size: usize) -> Self {
        let bytes = vec![0; size + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start, size }
    }

    /// Reads at an offset, and returns the time that the read took.
    fn read(&mut self, file: &File, at: usize) -> Result<Duration> {
        let into = &mut self.bytes[self.start..][..self.size];
        let started = Instant::now();
        file.read_exact_at(into, at as u64)
            .context(format!("read at {at:#x}"))?;
        Ok(started.elapsed())
    }
}

fn random(file: &File, blocks: usize, count: usize, depth: usize) -> Result<Done> {
    let started = Instant::now();
    let each = thread::scope(|scope| {
        let workers: Vec<_> = (0..depth)
            .map(|worker| {
                scope.spawn(move || {
                    let mut random = Random::new(worker as u64);
                    let mut buffer = Buffer::new(BLOCK);
                    (0..count / depth)
                        .map(|_| buffer.read(file, random.below(blocks) * BLOCK))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut each = Vec::new();
        for worker in workers {
            let times = worker
                .join()
                .unwrap_or_else(|_| Err(Error::new("a reader died")))?;
            each.extend(times);
        }
        Ok::<_, Error>(each)
    })?;
    Ok(Done {
        took: started.elapsed(),
        bytes: each.len() * BLOCK,
        each,
    })
}

/// Makes large reads in order. They read as many bytes as all small reads of one kind together.
fn in_order(file: &File, blocks: usize, count: usize) -> Result<Done> {
    let large = (blocks * BLOCK / LARGE).max(1);
    let mut buffer = Buffer::new(LARGE);
    let started = Instant::now();
    let each = (0..(count * BLOCK / LARGE).max(1))
        .map(|n| buffer.read(file, n % large * LARGE))
        .collect::<Result<Vec<_>>>()?;
    Ok(Done {
        took: started.elapsed(),
        bytes: each.len() * LARGE,
        each,
    })
}

/// Reads the first block of the disk once.
pub fn first(disk: &str) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk)
        .context(format!("open {disk}"))?;
    Buffer::new(BLOCK).read(&file, 0).map(|_| ())
}
