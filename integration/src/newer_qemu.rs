//! A QEMU for guests with XSAVE.
//!
//! KVM intercepts a guest's XSETBV, because KVM needs XCR0: CPUID leaf 0xd depends on it, and KVM
//! loads the guest's XCR0 at each entry. QEMU's emulation of SVM ignores this intercept before
//! version 8.2. The guest's XSETBV then sets the register without KVM's knowledge: leaf 0xd stays
//! as it was, and the next entry sets XCR0 back to its value at reset.
//!
//! The CPU model makes no difference. Seen with QEMU 7.2:
//!
//! - `EPYC`: Linux reports an "XSAVE consistency problem", and uses neither XSAVE nor AVX.
//! - `max`, of family 23 and without AVX, PKU and MPX: leaf 0xd is the same for x87 and for SSE, so
//!   Linux uses XSAVE. XCR0 loses SSE, and init dies ("bad frame in rt_sigreturn").
//!
//! Seen with QEMU 10.0: `max`, `EPYC`, `EPYC-Rome`, `EPYC-Milan`, and `Haswell` with AMD's vendor
//! and SVM: Linux uses XSAVE and AVX, and no register is lost.
//!
//! Where the machine's QEMU is older, the lab uses the package of the release's backports. The
//! package is unpacked in the cache and not installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::error::{Context, Error, Result};
use crate::host::{self, Host};
use crate::lists::Lists;
use crate::progress::Step;

/// The first version whose SVM intercepts XSETBV.
const NEEDED: (u32, u32) = (8, 2);

const PACKAGE: &str = "qemu-system-x86";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// Firmware, which the program looks for beside itself.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The host with a QEMU that intercepts XSETBV: the machine's own if it is new enough, or the
/// backports'.
///
/// # Errors
/// There is neither.
pub fn find(host: &Host) -> Result<Host> {
    if is_newer(&host.qemu)? {
        return Ok(host.clone());
    }
    let cache = host::cache()?.join("qemu");
    let with = |dir: &Path| Host {
        qemu: dir.join(PROGRAM),
        ..host.clone()
    };
    let ready = cache.join("newer");
    if !ready.join(PROGRAM).is_file() {
        unpack(&cache, &ready).map_err(|error| {
            Error::cannot_run(
                format!(
                    "QEMU before {}.{} does not let KVM intercept XSETBV, and the lab got no newer \
                     QEMU: {error}",
                    NEEDED.0, NEEDED.1
                ),
                "run the lab on Debian 13 or newer",
            )
        })?;
    }
    if is_newer(&with(&ready).qemu)? {
        return Ok(with(&ready));
    }
    Err(Error::cannot_run(
        "the QEMU of the release's backports does not let KVM intercept XSETBV either",
        "run the lab on Debian 13 or newer",
    ))
}

/// Downloads the package, and makes `ready` with the program and the way to the machine's firmware.
fn unpack(cache: &Path, ready: &Path) -> Result<()> {
    let step = Step::start(format!("getting {PACKAGE} of Debian's backports"));
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let suite = format!("{}-backports", codename(&release)?);
    let work = cache.join(format!("part-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let (tree, filled) = (work.join("tree"), work.join("filled"));
    let lists = Lists::of_suite(&suite, cache)?;
    lists.update()?;
    lists.unpack(PACKAGE, &work, &tree)?;
    for dir in ["usr/bin", "usr/share"] {
        let dir = filled.join(dir);
        fs::create_dir_all(&dir).context(format!("make {}", dir.display()))?;
    }
    fs::rename(tree.join(PROGRAM), filled.join(PROGRAM)).context(format!("move {PROGRAM}"))?;
    for dir in FIRMWARE {
        symlink(Path::new("/").join(dir), filled.join(dir)).context(format!("link {dir}"))?;
    }
    // Another lab may have been faster.
    if !ready.exists() {
        fs::rename(&filled, ready).context(format!("move QEMU to {}", ready.display()))?;
    }
    let _ = fs::remove_dir_all(&work);
    step.done();
    Ok(())
}

fn is_newer(qemu: &Path) -> Result<bool> {
    let text = host::output(Command::new(qemu).arg("--version"))?;
    version(&text)
        .map(|found| found >= NEEDED)
        .ok_or_else(|| Error::failed(format!("QEMU names no version: {text}")))
}

/// The version in "QEMU emulator version 7.2.22 (Debian …)".
fn version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once(" version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The release's name in /etc/os-release.
fn codename(release: &str) -> Result<&str> {
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(|name| name.trim_matches('"'))
        .ok_or_else(|| Error::failed("/etc/os-release names no release of Debian's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(version(text), Some((7, 2)));
        assert!(version(text) < Some(NEEDED));
        assert!(version("QEMU emulator version 10.0.2") > Some(NEEDED));
        assert_eq!(version("QEMU"), None);
    }

    #[test]
    fn the_release_is_named() {
        let release = "ID=debian\nVERSION_CODENAME=\"trixie\"\n";
        assert_eq!(codename(release).unwrap(), "trixie");
        assert!(codename("ID=debian\n").is_err());
    }
}
