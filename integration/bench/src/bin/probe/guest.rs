//! /init of the bench's guests. Its first line reports that /init runs, and the uptime of the
//! guest's kernel.

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::ptr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bench::error::{Context, Error, Result};

use crate::reads::{self, Window};

const DISK: &str = "/dev/nvme0n1";
/// The pause before and after each window. During the pause `probe watch` reads the VMM's counters.
const PAUSE: Duration = Duration::from_millis(300);

/// Does the work that the kernel's command line names, and then sleeps forever. `probe watch` reads
/// the VMM's counters from outside, and ends the VMM.
pub fn run() -> ! {
    println!("L2: init uptime={:.4}", uptime());
    match work() {
        Ok(()) => println!("L2: done"),
        Err(error) => println!("L2: failed {error}"),
    }
    loop {
        sleep(Duration::from_secs(1));
    }
}

/// The kernel's uptime in seconds.
fn uptime() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills one structure of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn work() -> Result<()> {
    for (kind, directory) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        (c"devtmpfs", c"/dev"),
    ] {
        mount(kind, directory)?;
    }
    let cmdline = fs::read_to_string("/proc/cmdline").context("read the command line")?;
    let word = |name: &str| {
        cmdline
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    if word("bench.disk").is_none() {
        return Ok(());
    }
    wait_for(DISK)?;
    reads::first(DISK)?;
    println!("L2: disk uptime={:.4}", uptime());
    let Some(count) = word("bench.reads") else {
        return Ok(());
    };
    let count = count.parse().context("read bench.reads")?;
    reads::all(DISK, count, &mut |window| match window {
        Window::Begin(name) => {
            println!("L2: begin {name}");
            let _ = std::io::stdout().flush();
            sleep(PAUSE);
        }
        Window::End => {
            sleep(PAUSE);
            println!("L2: end");
            // A VMM may write the end of a line late.
            sleep(3 * PAUSE);
        }
    })
}

fn mount(kind: &CStr, directory: &CStr) -> Result<()> {
    // SAFETY: strings that end with a zero, and no data.
    let ret = unsafe {
        libc::mount(
            kind.as_ptr(),
            directory.as_ptr(),
            kind.as_ptr(),
            0,
            ptr::null(),
        )
    };
    // The kernel may have mounted /dev already.
    let error = std::io::Error::last_os_error();
    if ret < 0 && error.raw_os_error() != Some(libc::EBUSY) {
        return Err(error).context(format!("mount {}", directory.to_string_lossy()));
    }
    Ok(())
}

fn wait_for(disk: &str) -> Result<()> {
    let started = Instant::now();
    while !Path::new(disk).exists() {
        if started.elapsed() > Duration::from_secs(20) {
            return Err(Error::new(format!("there is no {disk}")));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
