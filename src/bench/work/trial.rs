//! All work of a turn. The host and each guest call this.

use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::error::{Context, Result};
use crate::work::task::{Engine, IDLE, Message, Sample, Task};
use crate::work::window::Window;
use crate::work::{disk, fingerprint, threads, uring};

/// Does the work of a turn on a disk. `tell` gets what there is to say. `seed` chooses the blocks:
/// no two turns of a run read the same ones, so none finds them in a cache of the disk.
///
/// # Errors
/// The disk cannot be opened or read, or `stop` was set.
pub fn work(
    task: &Task,
    path: &Path,
    seed: u64,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Message),
) -> Result<()> {
    let mut file = disk::open(path)?;
    let bytes = file
        .seek(SeekFrom::End(0))
        .context("cannot read the disk's size")?;
    tell(fingerprint::read(&file, bytes)?);
    for (number, work) in (1..).zip(&task.works) {
        tell(Message::Start {
            work: work.name.clone(),
        });
        let seed = seed.wrapping_mul(1000).wrapping_add(number);
        let window = Window::start(task, stop);
        let times = match task.engine {
            Engine::IoUring => uring::read(&file, bytes, work, seed, window)?,
            Engine::Threads => threads::read(&file, bytes, work, seed, window)?,
        };
        tell(Message::Done(Sample::of(work, &times, window.seconds()?)));
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
    path: &Path,
    seed: u64,
    pause: Duration,
    tell: &mut dyn FnMut(Message),
) -> Result<()> {
    let mut file = disk::open(path)?;
    let bytes = file
        .seek(SeekFrom::End(0))
        .context("cannot read the disk's size")?;
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
            let times = match task.engine {
                Engine::IoUring => uring::read(&file, bytes, work, seed, window)?,
                Engine::Threads => threads::read(&file, bytes, work, seed, window)?,
            };
            Ok(times.len())
        })?;
    }
    tell(Message::End);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::work::task::{DiskId, Order, Work};

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
            let task = Task {
                works: vec![
                    Work::new(4, 1, Order::Random),
                    Work::new(4, 32, Order::Random),
                    Work::new(128, 4, Order::Sequential),
                ],
                warm_up_ms: 5,
                measure_ms: 20,
                engine,
                disk: DiskId {
                    wwid: None,
                    sectors: 8192,
                },
            };
            let mut samples = Vec::new();
            let mut tell = |message| match message {
                Message::Content { sha256, zeros, .. } => contents.push((sha256, zeros)),
                Message::Done(sample) => samples.push(sample),
                _ => {}
            };
            work(&task, &path, 5, &AtomicBool::new(false), &mut tell).unwrap();
            assert_eq!(samples.len(), 3);
            for sample in samples {
                let counted: u64 = sample.histogram.iter().map(|(_, count)| count).sum();
                assert!(
                    sample.operations > 0 && counted == sample.operations,
                    "{sample:?}"
                );
            }
            let stopped = work(&task, &path, 5, &AtomicBool::new(true), &mut |_| {});
            assert!(stopped.unwrap_err().is_interrupted());
        }
        assert!(contents.iter().all(|content| *content == contents[0]));
        assert_eq!(contents[0].1, 0);
        fs::remove_file(&path).unwrap();
    }
}
