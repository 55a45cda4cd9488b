//! The guest's kernel.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// A kernel for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// Its release, as `uname -r` has it.
    pub release: String,
}

/// The start of a bzImage's version string is at this offset plus 0x200
/// (Documentation/arch/x86/boot.rst, `kernel_version`).
const VERSION_OFFSET: u64 = 0x20e;

impl Image {
    /// The running kernel's own file, below `root`.
    ///
    /// # Errors
    /// No file is where distributions have it.
    pub fn of_host(root: &Path, release: &str) -> Result<Self> {
        let names = [
            format!("boot/vmlinuz-{release}"),
            format!("lib/modules/{release}/vmlinuz"),
            format!("usr/lib/modules/{release}/vmlinuz"),
        ];
        let paths = names.iter().map(|name| root.join(name));
        match paths.into_iter().find(|path| path.is_file()) {
            Some(path) => Ok(Self {
                path,
                release: release.to_owned(),
            }),
            None => Err(Error::new(format!(
                "the running kernel {release} is neither in /boot nor in /lib/modules"
            ))
            .with_hint("name a kernel for the guest: --guest-kernel /path/to/vmlinuz")),
        }
    }

    /// A kernel that the user has named. A file without a version of its own, such as an ELF
    /// kernel, has the running kernel's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn named(path: &Path, running: &str) -> Result<Self> {
        let file = File::open(path).context(format!("cannot open {}", path.display()))?;
        let path = fs::canonicalize(path).context(format!("cannot open {}", path.display()))?;
        Ok(Self {
            path,
            release: version(&file).unwrap_or_else(|| running.to_owned()),
        })
    }
}

/// The release in the header of a bzImage.
fn version(file: &File) -> Option<String> {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0x202).ok()?;
    if magic != *b"HdrS" {
        return None;
    }
    let mut offset = [0; 2];
    file.read_exact_at(&mut offset, VERSION_OFFSET).ok()?;
    let mut text = [0; 128];
    let at = u64::from(u16::from_le_bytes(offset)) + 0x200;
    let read = file.read_at(&mut text, at).ok()?;
    let text = String::from_utf8_lossy(&text[..read]);
    let release = text.split([' ', '\0']).next()?;
    (!release.is_empty()).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn kernels_are_where_distributions_have_them() {
        let root = dir("image");
        let missing = Image::of_host(&root, "6.1").unwrap_err();
        assert!(missing.hint().unwrap().contains("--guest-kernel"));
        for name in ["lib/modules/6.1/vmlinuz", "boot/vmlinuz-6.1"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            assert_eq!(Image::of_host(&root, "6.1").unwrap().path, path);
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_bzimage_says_its_release() {
        let root = dir("release");
        let path = root.join("vmlinuz");
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        image[0x500..0x511].copy_from_slice(b"6.12.9-amd64 (me)");
        fs::write(&path, &image).unwrap();
        assert_eq!(Image::named(&path, "7").unwrap().release, "6.12.9-amd64");
        fs::write(&path, b"\x7fELF").unwrap();
        assert_eq!(Image::named(&path, "7").unwrap().release, "7");
        assert!(Image::named(&root.join("none"), "7").is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
