//! Runs a scenario in a machine of its own. The directory of a failed machine keeps all its files.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, process};

use crate::error::{Context, Error, Result};
use crate::failure;
use crate::host::{self, Host};
use crate::initramfs::Archive;
use crate::inner_qemu;
use crate::judge::{emulator_failed, judge, stood_still};
use crate::kernel::{Kernel, KernelFile};
use crate::listen::Ended;
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::scripts::{L1_FUNCTIONS, L1_INIT, L2_ACTS, L2_FUNCTIONS, L2_INIT, L2_PLUGS};
use crate::setup::Lab;
use crate::transcript::Line;
use crate::vmm;

/// The start of the guest's kernel command line. Each character on the console causes an exit to
/// the VMM, so the kernel prints only serious messages.
const QUIET: &str = "quiet panic=-1";

/// The start of the guest's kernel command line for the second start of a machine that hung. The
/// kernel prints all messages, which may explain the hang.
const LOUD: &str = "loglevel=7 panic=-1";

/// The users of L1: root, an ordinary user for tests of permissions, and one who owns nothing.
const USERS: &[u8] = b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n\
    nobody:x:65534:65534::/tmp:/bin/sh\n";
const USER_GROUPS: &[u8] = b"root:x:0:\nuser:x:1000:\nnobody:x:65534:\n";

/// A scenario that passed.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// How long the machine ran.
    pub took: Duration,
    /// Whether the machine was started twice, because the emulator failed the first time.
    pub repeated: bool,
}

/// Runs a scenario. `heard` is called with each line of L1's serial port when it arrives.
pub fn run(scenario: &Scenario, lab: &Lab, heard: &mut dyn FnMut(&Line)) -> Result<Passed> {
    host::forget(&first_dir(scenario))?;
    let first = run_once(scenario, lab, QUIET, heard)?;
    // QEMU's failures are known. Bochs has none that the lab knows and does not avoid.
    let is_qemu = scenario.machine.bochs.is_none();
    let why = if is_qemu && emulator_failed(&first.0) {
        Some(match first.0.timed_out {
            true => "no guest reached /init in".into(),
            false => "L1 powered off by itself after".into(),
        })
    } else if is_qemu && stood_still(&first.0) {
        let failed = judge(scenario, &outcome_of(&first), first.0.timed_out).err();
        failed.map(|e| format!("the emulator stood still, and then: {e}; after"))
    } else {
        None
    };
    let repeated = why.is_some();
    let (ended, dir) = if let Some(why) = why {
        let kept = keep_first(scenario, &first.1)?;
        eprintln!(
            "  {}: {why} {:.0} s; the lab starts the machine once more, and keeps the first one's \
             logs in {}",
            scenario.name,
            first.0.took.as_secs_f64(),
            kept.display()
        );
        run_once(scenario, lab, LOUD, heard)?
    } else {
        first
    };
    let outcome = Outcome {
        transcript: ended.transcript,
        dir,
    };
    judge(scenario, &outcome, ended.timed_out)
        .map_err(|error| Error::failed(failure::explain(&error.to_string(), &outcome)))?;
    remove_large(scenario, &outcome.dir)?;
    Ok(Passed {
        took: ended.took,
        repeated,
    })
}

fn outcome_of((ended, dir): &(Ended, PathBuf)) -> Outcome {
    Outcome {
        transcript: ended.transcript.clone(),
        dir: dir.clone(),
    }
}

/// Runs a scenario's machine with its serial port on this process's terminal, and checks nothing.
/// Each process has a directory of its own, which stays if QEMU fails. Returns QEMU's exit status.
///
/// # Errors
/// The machine cannot be started.
pub fn interactive(scenario: &Scenario, lab: &Lab) -> Result<u8> {
    let host = lab.host(&scenario.machine)?;
    let kernel = lab.kernel(scenario.kernel)?;
    let dir = host::fresh_dir(&format!("{}-{}", scenario.name, process::id()))?;
    scenario.machine.furnish(&dir)?;
    let archive = archive(scenario, lab, host, kernel, QUIET)?;
    fs::write(dir.join("l1.cpio"), archive).context("write L1's initramfs")?;
    eprintln!("L1 starts, which takes some seconds; Ctrl-] x ends it");
    let status = scenario
        .machine
        .on_terminal(host, &dir, &kernel.bzimage())?;
    match status {
        0 => host::forget(&dir)?,
        _ => eprintln!("QEMU failed; its files are in {}", dir.display()),
    }
    Ok(status)
}

fn run_once(
    scenario: &Scenario,
    lab: &Lab,
    cmdline: &str,
    heard: &mut dyn FnMut(&Line),
) -> Result<(Ended, PathBuf)> {
    let host = lab.host(&scenario.machine)?;
    let kernel = lab.kernel(scenario.kernel)?;
    let dir = host::fresh_dir(scenario.name)?;
    scenario.machine.furnish(&dir)?;
    let archive = archive(scenario, lab, host, kernel, cmdline)?;
    fs::write(dir.join("l1.cpio"), archive).context("write L1's initramfs")?;
    let limit = scenario.limit;
    let ended = scenario
        .machine
        .run(host, &dir, &kernel.bzimage(), limit, heard)?;
    Ok((ended, dir))
}

/// L1's initramfs, which contains L2's initramfs.
fn archive(
    scenario: &Scenario,
    lab: &Lab,
    host: &Host,
    kernel: &Kernel,
    cmdline: &str,
) -> Result<Vec<u8>> {
    let programs = lab.programs.as_ref().map_err(Clone::clone)?;
    let mut l1 = Archive::with_busybox(host, L1_INIT)?;
    l1.file("lab/functions.sh", L1_FUNCTIONS.as_bytes());
    l1.file("lab/scenario.sh", scenario.l1_script(cmdline).as_bytes());
    l1.file("etc/passwd", USERS);
    l1.file("etc/group", USER_GROUPS);
    let mut order = String::new();
    for (name, path) in kernel.modules()? {
        l1.host_file(&format!("lib/lab-modules/{name}"), &path, false)?;
        order.push_str(&name);
        order.push('\n');
    }
    l1.file("lib/lab-modules/order", order.as_bytes());
    l1.host_file("bin/mini-vmm", &programs.vmm, true)?;
    if scenario.tiny_guests {
        l1.host_file("bin/guests", &vmm::tiny_guests()?, true)?;
    }
    if scenario.inner_qemu {
        inner_qemu::add(&mut l1, &host.qemu)?;
    }
    for (name, build) in &scenario.built {
        l1.host_file(&format!("bin/{name}"), &build()?, true)?;
    }
    for (path, data) in &scenario.files {
        l1.file(path, data);
    }
    let file = scenario.kernel_file;
    let image = match file {
        KernelFile::BzImage => kernel.bzimage(),
        KernelFile::Vmlinux => kernel.vmlinux()?,
    };
    l1.host_file(&format!("boot/{}", file.name()), &image, false)?;
    let mut l2 = Archive::with_busybox(host, L2_INIT)?;
    l2.host_file("bin/guest", &programs.guest, true)?;
    l2.file("lab/functions.sh", L2_FUNCTIONS.as_bytes());
    l2.file("lab/acts.sh", L2_ACTS.as_bytes());
    l2.file("lab/plugs.sh", L2_PLUGS.as_bytes());
    for program in &scenario.machine.programs {
        l1.host_program(program)?;
        l2.host_program(program)?;
    }
    l1.file("boot/initrd", &l2.finish());
    Ok(l1.finish())
}

/// The directory for the logs of the first machine, if the emulator fails and the lab starts the
/// machine again.
fn first_dir(scenario: &Scenario) -> PathBuf {
    host::dir(&format!("{}.first", scenario.name))
}

/// Keeps the logs of a scenario that failed, beside those of the next run.
///
/// # Errors
/// The directory cannot be renamed.
pub fn keep_failed(scenario: &Scenario) -> Result<PathBuf> {
    let kept = host::dir(&format!("{}.failed", scenario.name));
    host::forget(&kept)?;
    let dir = host::dir(scenario.name);
    if !dir.exists() {
        return Ok(dir);
    }
    fs::rename(&dir, &kept).context(format!("keep {}", dir.display()))?;
    Ok(kept)
}

fn keep_first(scenario: &Scenario, dir: &Path) -> Result<PathBuf> {
    let kept = first_dir(scenario);
    fs::rename(dir, &kept).context(format!("keep {}", dir.display()))?;
    remove_large(scenario, &kept)?;
    Ok(kept)
}

/// Removes the disk images and the initramfs. Keeps the logs.
fn remove_large(scenario: &Scenario, dir: &Path) -> Result<()> {
    let images = scenario.machine.disks.iter().map(|disk| disk.serial);
    let images = images.chain(scenario.machine.debian.map(|_| "debian"));
    let images = images.map(|name| format!("{name}.img"));
    for name in images.chain(["l1.cpio".to_owned()]) {
        let path = dir.join(name);
        fs::remove_file(&path).context(format!("remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    #[test]
    fn the_first_of_two_machines_leaves_its_logs_and_the_second_says_more() {
        let scenario = Scenario::new("unit-of-the-lab")
            .disk(Disk::new("unit", 5))
            .vmm("");
        let dir = host::fresh_dir(scenario.name).unwrap();
        for name in ["transcript.log", "unit.img", "l1.cpio"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let kept = keep_first(&scenario, &dir).unwrap();
        assert!(!dir.exists());
        let left: Vec<_> = fs::read_dir(&kept).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(kept.join("transcript.log").is_file());
        host::forget(&kept).unwrap();
        for (cmdline, word) in [(QUIET, "quiet"), (LOUD, "loglevel=7")] {
            let script = scenario.l1_script(cmdline);
            assert!(script.contains(&format!("\ncmdline='{word} panic=-1'\n")));
            assert!(script.contains("--cmdline \"$cmdline\""));
        }
    }
}
