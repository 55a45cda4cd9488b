//! Kernels from Debian's packages, kept in a cache outside of the source tree. The lab installs no
//! package. For a cached kernel the lab needs neither apt nor a network; at times the lab looks for
//! a newer version. Two kernels are used as packaged. The other two are built from Debian's kernel
//! source: one from the release's, one from the testing suite's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::error::{Context, Error, Result};
use crate::host::{self, entries};
use crate::progress::Step;

mod apt;
mod build;
mod choice;
pub(crate) mod lock;
mod modules;
mod payload;

pub(crate) use apt::newest_image;
pub use choice::{Choice, KernelFile};

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    dir: PathBuf,
}

impl Kernel {
    /// Returns a kernel, from the cache if possible.
    pub fn get(choice: Choice) -> Result<Self> {
        let cache = host::cache()?.join("kernels");
        fs::create_dir_all(&cache).context(format!("make {}", cache.display()))?;
        let pointer = cache.join(choice.name());
        // Two labs must not build the same kernel at the same time.
        let _lock = match choice {
            Choice::Lab | Choice::LabNewest => Some(lock::take(&cache.join("lab.lock"))?),
            Choice::Stock | Choice::Newest => None,
        };
        let cached = fs::read_to_string(&pointer)
            .ok()
            .filter(|key| choice.is_current(key.trim()))
            .map(|key| cache.join(key.trim()))
            .filter(|dir| dir.join("vmlinuz").is_file());
        if let Some(dir) = &cached
            && is_fresh(&pointer, choice.fresh())
        {
            return Ok(Self { dir: dir.clone() });
        }
        match fetch(choice, &cache) {
            Ok(key) => {
                write_atomically(&pointer, key.as_bytes())?;
                Ok(Self {
                    dir: cache.join(key),
                })
            }
            Err(error) => match cached {
                Some(dir) => {
                    eprintln!(
                        "  the lab could not look for a newer kernel, and uses the cached {}: \
                         {error}",
                        dir.file_name().unwrap_or_default().to_string_lossy()
                    );
                    Ok(Self { dir })
                }
                None => Err(error),
            },
        }
    }

    /// The package's name and version.
    pub fn version(&self) -> String {
        self.dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The path of the bzImage.
    pub fn bzimage(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The path of the ELF kernel inside of the bzImage. The ELF is unpacked once.
    pub fn vmlinux(&self) -> Result<PathBuf> {
        let path = self.dir.join("vmlinux");
        if !path.is_file() {
            let image =
                fs::read(self.bzimage()).context(format!("read {}", self.bzimage().display()))?;
            write_atomically(&path, &payload::unpack(&image)?)?;
        }
        Ok(path)
    }

    /// File names and paths of the modules that L1 needs. Each module comes after the modules that
    /// it depends on.
    pub fn modules(&self) -> Result<Vec<(String, PathBuf)>> {
        let order = self.dir.join("modules/order");
        let text = fs::read_to_string(&order).context(format!("read {}", order.display()))?;
        Ok(text
            .lines()
            .map(|name| (name.to_owned(), self.dir.join("modules").join(name)))
            .collect())
    }
}

fn is_fresh(pointer: &Path, time: Duration) -> bool {
    let modified = fs::metadata(pointer).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|age| age < time)
    })
}

fn write_atomically(path: &Path, data: &[u8]) -> Result<()> {
    let part = path.with_extension(format!("part-{}", std::process::id()));
    fs::write(&part, data).context(format!("write {}", part.display()))?;
    fs::rename(&part, path).context(format!("rename {}", part.display()))
}

/// Downloads or builds a kernel and returns its key in the cache.
fn fetch(choice: Choice, cache: &Path) -> Result<String> {
    // The kernel's source tree is large. Its directory has a fixed name, so that the next build
    // removes the tree of an interrupted build.
    let work = cache.join(match choice {
        Choice::Lab | Choice::LabNewest => format!("part-{}", choice.name()),
        Choice::Stock | Choice::Newest => {
            format!("part-{}-{}", choice.name(), std::process::id())
        }
    });
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).context(format!("make {}", work.display()))?;
    let key = fill(choice, cache, &work);
    let _ = fs::remove_dir_all(&work);
    key
}

fn fill(choice: Choice, cache: &Path, work: &Path) -> Result<String> {
    let step = Step::start(match choice {
        Choice::Stock | Choice::Newest => {
            format!("getting the {} kernel of Debian's packages", choice.name())
        }
        Choice::Lab | Choice::LabNewest => {
            build::can_build()?;
            format!(
                "building the {} kernel from Debian's source, once",
                choice.name()
            )
        }
    });
    let packages = apt::download(choice, cache, work)?;
    let package = packages
        .first()
        .and_then(|path| path.file_stem())
        .ok_or_else(|| Error::failed("apt-get download left no package behind"))?;
    let key = choice.key(&package.to_string_lossy());
    if cache.join(&key).join("vmlinuz").is_file() {
        step.done();
        return Ok(key);
    }
    step.at("unpacking");
    let tree = work.join("tree");
    for package in &packages {
        host::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
    }
    let filled = work.join("filled");
    fs::create_dir_all(filled.join("modules")).context("make the modules' directory")?;
    match choice.options() {
        None => {
            let vmlinuz = find_vmlinuz(&tree)?;
            fs::copy(&vmlinuz, filled.join("vmlinuz"))
                .context(format!("copy {}", vmlinuz.display()))?;
            modules::collect(&tree, &filled.join("modules"))?;
        }
        Some(options) => build::fill(&options, &tree, &filled, &step)?,
    }
    let cached = cache.join(&key);
    let _ = fs::remove_dir_all(&cached);
    fs::rename(&filled, &cached).context(format!("move the kernel to {}", cached.display()))?;
    step.done();
    Ok(key)
}

/// Finds `/boot/vmlinuz-VERSION`, or `/usr/lib/modules/VERSION/vmlinuz` in a split package.
fn find_vmlinuz(tree: &Path) -> Result<PathBuf> {
    let boot = entries(&tree.join("boot"));
    let split = ["usr/lib/modules", "lib/modules"]
        .into_iter()
        .flat_map(|dir| entries(&tree.join(dir)))
        .map(|dir| dir.join("vmlinuz"));
    boot.into_iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .chain(split)
        .find(|path| path.is_file())
        .ok_or_else(|| Error::failed("the kernel package has no vmlinuz in its usual directories"))
}
