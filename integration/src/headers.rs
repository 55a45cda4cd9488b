//! The kernel's headers for user space, of the newest kernel that the testing suite has. The
//! package is unpacked in the cache and not installed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::host;
use crate::kernel::lock;
use crate::lists::Lists;
use crate::progress::Step;

const PACKAGE: &str = "linux-libc-dev";

/// Debian's suite with the newest kernel that has been in use elsewhere for some days.
const SUITE: &str = "testing";

/// Headers in the cache.
#[derive(Clone, Debug)]
pub struct KernelHeaders {
    /// The directory that has `linux/kvm.h`.
    pub include: PathBuf,
    /// The package's version, such as `7.2.12-1`.
    pub version: String,
}

impl KernelHeaders {
    /// The headers in the cache, or the newest if the cache has none.
    ///
    /// # Errors
    /// The cache has none, and the package cannot be downloaded.
    pub fn get() -> Result<Self> {
        let cache = cache()?;
        // Two processes must not fill the cache at the same time.
        let _lock = lock::take(&cache.join("lock"))?;
        match cached(&cache) {
            Some(found) => Ok(found),
            None => fetch(&cache),
        }
    }

    /// The newest headers, from the mirror.
    ///
    /// # Errors
    /// The package cannot be downloaded.
    pub fn newest() -> Result<Self> {
        let cache = cache()?;
        let _lock = lock::take(&cache.join("lock"))?;
        fetch(&cache)
    }
}

fn cache() -> Result<PathBuf> {
    let cache = host::cache()?.join("headers");
    fs::create_dir_all(&cache).context(format!("make {}", cache.display()))?;
    Ok(cache)
}

/// The headers that were unpacked last.
fn cached(cache: &Path) -> Option<KernelHeaders> {
    let version = fs::read_to_string(cache.join("current")).ok()?;
    of(cache, version.trim())
}

fn of(cache: &Path, version: &str) -> Option<KernelHeaders> {
    let include = cache.join(version).join("usr/include");
    include
        .join("linux/kvm.h")
        .is_file()
        .then(|| KernelHeaders {
            include,
            version: version.to_owned(),
        })
}

fn fetch(cache: &Path) -> Result<KernelHeaders> {
    let step = Step::start(format!("getting {PACKAGE} of Debian's {SUITE}"));
    let work = cache.join(format!("part-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let tree = work.join("tree");
    let lists = Lists::of_suite(SUITE, cache)?;
    lists.update()?;
    let package = lists.unpack(PACKAGE, &work, &tree)?;
    // linux-libc-dev_VERSION_all.deb
    let file = package.file_name().unwrap_or_default().to_string_lossy();
    let version = file
        .split('_')
        .nth(1)
        .ok_or_else(|| Error::failed(format!("{file} names no version")))?
        .to_owned();
    let ready = cache.join(&version);
    if !ready.exists() {
        fs::rename(&tree, &ready).context(format!("move {} to the cache", tree.display()))?;
    }
    let _ = fs::remove_dir_all(&work);
    fs::write(cache.join("current"), &version).context("note the headers' version")?;
    step.done();
    of(cache, &version)
        .ok_or_else(|| Error::failed(format!("{PACKAGE} {version} has no linux/kvm.h")))
}
