//! fio(1): the same reads at random, one at a time.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::work::task::{Engine, Task, Work};

/// The program's name in PATH.
pub const NAME: &str = "fio";

/// Lets fio read a disk as a kind of work does. It opens the disk for reads alone.
pub fn command(program: &Path, node: &Path, work: &Work, task: &Task) -> Command {
    let engine = match task.engine {
        Engine::IoUring => "io_uring",
        Engine::Threads => "psync",
    };
    let mut command = Command::new(program);
    // fio takes a colon for the end of a name.
    let node = node.display().to_string().replace(':', "\\:");
    command
        .args(["--name=check", "--readonly", "--rw=randread", "--direct=1"])
        .args([
            "--norandommap",
            "--randrepeat=0",
            "--thread",
            "--time_based",
        ])
        .args([
            "--lat_percentiles=1",
            "--clat_percentiles=0",
            "--percentile_list=50",
        ])
        .args(["--output-format=json", &format!("--filename={node}")])
        .arg(format!("--bs={}", work.block))
        .arg(format!("--iodepth={}", work.depth))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--ramp_time={}ms", task.warm_up_ms))
        .arg(format!("--runtime={}ms", task.measure_ms));
    command
}

/// The median time of a read in microseconds, by fio's JSON: from the moment at which fio issued a
/// read until it knew of its end (fio's manual, "slat, clat, lat").
///
/// # Errors
/// fio says something else, or that its job has failed.
pub fn median_us(output: &str) -> Result<f64> {
    // Notes come before the JSON.
    let json = output.find('{').map_or("", |at| &output[at..]);
    let said: Value = serde_json::from_str(json)
        .map_err(|e| Error::new(format!("fio's output is no JSON: {e}")))?;
    let job = &said["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        return Err(Error::new(format!(
            "fio's job has the error {}",
            job["error"]
        )));
    }
    let time = job["read"]["lat_ns"]["percentile"]["50.000000"].as_f64();
    let time = time.filter(|time| *time > 0.0);
    let time = time.ok_or_else(|| Error::new("fio's output has no median time of a read"))?;
    Ok(time / 1000.0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;
    use crate::cross::check::figures;
    use crate::cross::tool;
    use crate::subjects::program::Program;
    use crate::work::disk;
    use crate::work::quantity;
    use crate::work::task::{DiskId, FunctionId, Message, Order, Target};
    use crate::work::trial::{self, Opened};
    use crate::work::uring;

    /// The form of fio 3.33's output, cut to what is read.
    const OUTPUT: &str = r#"note: both iodepth >= 1 and synchronous I/O engine are selected
{ "fio version": "fio-3.33",
  "jobs": [ { "jobname": "check", "error": 0,
    "read": { "iops": 11234.5, "lat_ns": { "min": 60123, "mean": 88012.7, "N": 16851,
      "percentile": { "50.000000": 82432 } } },
    "write": { "iops": 0.0, "lat_ns": { "N": 0 } } } ] }"#;

    #[test]
    fn the_median_is_read() {
        assert_eq!(median_us(OUTPUT).unwrap(), 82.432);
        for (from, to, why) in [
            ("\"error\": 0", "\"error\": 5", "error 5"),
            ("50.000000", "99.000000", "no median"),
            ("82432", "0", "no median"),
            ("\"jobs\"", "jobs", "no JSON"),
        ] {
            let said = median_us(&OUTPUT.replace(from, to)).unwrap_err();
            assert!(said.to_string().contains(why), "{said}");
        }
        assert!(median_us("").is_err());
    }

    fn task(engine: Engine) -> Task {
        Task {
            works: vec![Work::new(4, 1, Order::Random)],
            warm_up_ms: 50,
            measure_ms: 300,
            engine,
            target: Target::Disk(DiskId {
                wwid: None,
                sectors: 0,
            }),
            function: FunctionId::default(),
            destroy: None,
        }
    }

    #[test]
    fn fio_opens_the_disk_for_reads_alone() {
        let task = task(Engine::Threads);
        let command = command(
            Path::new("fio"),
            Path::new("/dev/a:b"),
            &task.works[0],
            &task,
        );
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let line = words.join(" ");
        for word in [
            "--readonly",
            "--rw=randread",
            "--filename=/dev/a\\:b",
            "--bs=4096 --iodepth=1 --ioengine=psync --ramp_time=50ms --runtime=300ms",
        ] {
            assert!(line.contains(word), "{word} in {line}");
        }
        assert!(!line.contains("write"), "{line}");
    }

    /// The real fio, if it is installed, reads a file beside this program: both say times of the
    /// same order.
    #[test]
    fn the_real_fio_says_about_the_same() {
        let Ok(program) = Program::in_path(NAME, "--version") else {
            println!("SKIPPED: there is no fio");
            return;
        };
        let name = format!("fio-{}", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        fs::write(&path, vec![7; 16 << 20]).unwrap();
        let never = AtomicBool::new(false);
        let rings = uring::is_there().then_some(Engine::IoUring);
        for engine in [Some(Engine::Threads), rings].into_iter().flatten() {
            let task = task(engine);
            let work = &task.works[0];
            let mut ours = || {
                let mut value = 0.0;
                let opened = Opened::Disk(disk::open(&path, false)?);
                trial::work(&task, opened, 1, &never, &mut |message| {
                    if let Message::Done(sample) = message {
                        value = quantity::value(work, &sample);
                    }
                })?;
                Ok(value)
            };
            let mut theirs = || {
                let command = command(&program.path, &path, work, &task);
                median_us(&tool::run(command, Duration::from_secs(60), &never)?)
            };
            let both = figures(&mut ours, &mut theirs).unwrap();
            // Other tests use the same disk meanwhile.
            assert!((0.05..20.0).contains(&both.ratio), "{both:?}");
        }
        fs::remove_file(&path).unwrap();
    }
}
