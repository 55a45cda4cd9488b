//! This program as the guest's /init: it loads modules, waits for the disk or the port, does
//! the work, and powers the guest off. Its messages are lines on the first serial port.

mod edu;
mod life;
mod port;

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, init_module, reboot};

use crate::disks;
use crate::error::{Context, Error, Result};
use crate::kernel::initramfs;
use crate::work::task::{DiskId, MARK, Message, Target, Task};
use crate::work::trial::{self, Opened};

/// What each kernel parameter of this program begins with.
pub const PREFIX: &str = "mini_vmm_bench.";

/// The kernel parameter with the seed of the turn.
pub const SEED: &str = "mini_vmm_bench.seed=";

/// The kernel parameter of a guest whose disk is emulated: the disk has the size of the task's, and
/// another identity.
pub const ANY_DISK: &str = "mini_vmm_bench.any_disk=1";

/// The kernel parameter of a guest whose VMM ends when the guest restarts, not when it powers off.
pub const RESTARTS: &str = "mini_vmm_bench.restarts=1";

/// The kernel parameter of a pass that counts, with the time to sleep in milliseconds.
pub const COUNT: &str = "mini_vmm_bench.count=";

/// The kernel parameter of a guest that does no work: it reboots when its driver is ready.
pub const LIFE: &str = "mini_vmm_bench.life=1";

/// The kernel parameter of such a guest that has the host's function, which it resets before it
/// reboots. The reset of an emulated card says nothing about the device.
pub const RESET: &str = "mini_vmm_bench.reset=1";

/// The kernel parameter of a traced pass: only the first kind of work is done, one operation at a
/// time, for [`TRACED_MS`], so that the kernel's buffers hold all of its events.
pub const FIRST_WORK: &str = "mini_vmm_bench.first_work=1";

/// The time of the work of a traced pass.
const TRACED_MS: u64 = 200;

/// How long the guest waits for its disk, or for its port and that port's carrier.
const PATIENCE: Duration = Duration::from_secs(20);

/// The number of the kernel's last lines that an error shows.
const LAST_LINES: usize = 25;

/// Whether the process with this number is a guest's /init. A container's first process is 1 too,
/// but its root is not the archive that [`initramfs::make`] has made.
pub fn is_init(pid: u32, root: &Path) -> bool {
    pid == 1 && root.join(initramfs::TASK).is_file() && root.join(initramfs::MODULES).is_dir()
}

/// Does the work, and powers the guest off.
pub fn main() -> ! {
    if let Err(error) = run() {
        for line in kernel_log().unwrap_or_default() {
            println!("{line}");
        }
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        tell(&Message::Failed {
            why: format!("{error}{}", source.unwrap_or_default()),
        });
    }
    // Nobody else can be told that the console is gone.
    let _ = io::stdout().flush();
    // The serial port sends what is left while nothing else runs.
    thread::sleep(Duration::from_millis(100));
    let _ = reboot(match has(RESTARTS) {
        true => RebootCommand::Restart,
        false => RebootCommand::PowerOff,
    });
    // A kernel that cannot power off is ended from outside.
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

fn tell(message: &Message) {
    // A message is plain data, which has no reason not to become JSON.
    let text = serde_json::to_string(message).unwrap_or_default();
    println!("{MARK}{text}");
}

fn run() -> Result<()> {
    tell(&Message::Init);
    for (kind, at) in [
        (c"proc", "/proc"),
        (c"sysfs", "/sys"),
        (c"devtmpfs", "/dev"),
    ] {
        let options: Option<&CStr> = None;
        mount(kind, at, kind, MountFlags::empty(), options)
            .context(format!("the guest cannot mount {at}"))?;
    }
    // The kernel's messages would come between the letters of this program's lines.
    let _ = fs::write("/proc/sys/kernel/printk", "1");
    let task = fs::read(Path::new("/").join(initramfs::TASK)).context("there is no task")?;
    let mut task: Task =
        serde_json::from_slice(&task).map_err(|e| Error::new(format!("the task: {e}")))?;
    if has(FIRST_WORK) {
        task.works.truncate(1);
        (task.warm_up_ms, task.measure_ms) = (0, TRACED_MS);
    }
    load_modules()?;
    let mut function = PathBuf::new();
    let opened = match &task.target {
        Target::Disk(id) => Opened::Disk(open_disk(&task, id)?),
        Target::Port(id) => {
            port::set_up(id, PATIENCE)?;
            Opened::Peer(id.peer)
        }
        Target::Function => {
            function = life::wait(&task.function, PATIENCE)?;
            Opened::Function
        }
    };
    tell(&Message::Ready {
        kernel: text("/proc/sys/kernel/osrelease"),
        uptime_ms: uptime_ms(),
    });
    if has(FIRST_WORK) && edu::is(&task.function) {
        edu::raise(&function)?;
    }
    if has(LIFE) {
        // The driver leaves a disk only when nobody has it open.
        drop(opened);
        let never = AtomicBool::new(false);
        return life::end(&task.function, has(RESET), &never, &mut |message| {
            tell(message);
        });
    }
    let seed = parameter(SEED).ok_or_else(|| Error::new("the guest has no seed"))?;
    let mut tell = |message| tell(&message);
    match parameter(COUNT) {
        Some(pause) => trial::count(&task, opened, seed, Duration::from_millis(pause), &mut tell),
        None => trial::work(&task, opened, seed, &AtomicBool::new(false), &mut tell),
    }
}

fn text(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

fn uptime_ms() -> u64 {
    let text = text("/proc/uptime");
    let seconds = text.split(' ').next().and_then(|s| s.parse::<f64>().ok());
    (seconds.unwrap_or(0.0) * 1000.0) as u64
}

/// Whether the kernel's command line has a word.
fn has(word: &str) -> bool {
    let line = text("/proc/cmdline");
    line.split_ascii_whitespace().any(|w| w == word)
}

/// A number on the kernel's command line.
fn parameter(name: &str) -> Option<u64> {
    let line = text("/proc/cmdline");
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.parse().ok())
}

fn load_modules() -> Result<()> {
    let dir = Path::new("/").join(initramfs::MODULES);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .context("there are no modules")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    for file in files {
        let module = fs::read(&file).context(format!("cannot read {}", file.display()))?;
        match init_module(&module, c"") {
            // The kernel has this module already.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => {
                return Err(e).context(format!("the guest cannot load {}", file.display()));
            }
        }
    }
    Ok(())
}

/// Waits for the disk, and opens it.
fn open_disk(task: &Task, id: &DiskId) -> Result<File> {
    let started = Instant::now();
    let any = has(ANY_DISK);
    loop {
        let found = disks::all(Path::new("/sys"))?;
        let found = found.iter().find(|disk| match any {
            true => disk.id.sectors == id.sectors,
            false => disk.is(id),
        });
        if let Some(disk) = found
            && disk.node().exists()
        {
            let destroy = task.destroy.as_deref();
            return match any {
                // The host has checked the disk, and holds it.
                true => disk.open_emulated(destroy),
                false => disk.open(destroy),
            };
        }
        if started.elapsed() > PATIENCE {
            return Err(Error::new(
                "no driver of the guest's kernel has bound the device and shown the disk",
            ));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The kernel's last lines.
fn kernel_log() -> io::Result<Vec<String>> {
    let mut log = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    // One read gives one record (Documentation/ABI/testing/dev-kmsg): prefix, `;`, text.
    while let Ok(read) = log.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..read]);
        let text = text.split_once(';').map_or("", |(_, text)| text);
        lines.extend(text.lines().next().map(str::to_owned));
    }
    Ok(lines.split_off(lines.len().saturating_sub(LAST_LINES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_container_is_no_guest() {
        let name = format!("mini-vmm-bench-init-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir(&root).unwrap();
        let empty = is_init(1, &root);
        fs::write(root.join(initramfs::TASK), "{}").unwrap();
        let only_task = is_init(1, &root);
        fs::create_dir(root.join(initramfs::MODULES)).unwrap();
        let (first, second) = (is_init(1, &root), is_init(2, &root));
        fs::remove_dir_all(&root).unwrap();
        assert!(!empty && !only_task && first && !second);
    }
}
