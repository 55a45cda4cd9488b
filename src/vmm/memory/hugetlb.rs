//! The host's huge pages: the reserve (Documentation/admin-guide/mm/hugetlbpage.rst), and whether
//! the kernel makes transparent ones (Documentation/admin-guide/mm/transhuge.rst).

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::memory::HugePage;
use crate::log::degraded::{self, Code};

/// The kernel's directory of huge pages, one for each size.
const SYSFS: &str = "/sys/kernel/mm/hugepages";
/// The kernel's switches of transparent huge pages.
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage";

/// The host's huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Pages in the reserve.
    pub total: u64,
    /// Pages that are free and not reserved for a mapping.
    pub free: u64,
}

impl Reserve {
    /// Reads the counts; `None` if the host has no pages of this size.
    pub fn read(page: HugePage) -> Option<Self> {
        Self::read_at(Path::new(SYSFS), page)
    }

    /// Reads them from a directory in place of [`SYSFS`].
    pub fn read_at(pages: &Path, page: HugePage) -> Option<Self> {
        let dir = dir(pages, page);
        let number = |name: &str| -> Option<u64> {
            fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
        };
        let free = number("free_hugepages")?;
        Some(Self {
            total: number("nr_hugepages")?,
            free: free.saturating_sub(number("resv_hugepages")?),
        })
    }
}

/// Tells the user if RAM gets no transparent huge pages on this host. The kernel has another switch
/// for memory that is `shared`.
pub fn tell_if_none(shared: bool) {
    let file = match shared {
        true => Path::new(TRANSPARENT).join("shmem_enabled"),
        false => Path::new(TRANSPARENT).join("enabled"),
    };
    let text = fs::read_to_string(&file);
    if let Err(why) = transparent(text.as_deref().ok()) {
        let what = "the guest's RAM is of small pages, which makes memory and DMA slower";
        degraded::tell(Code::NoHugePages.loss(what, why).hint(format!(
            "as root: echo {} > {}; or reserve huge pages, --memory ...,hugepages=2M",
            if shared { "advise" } else { "madvise" },
            file.display()
        )));
    }
}

/// Whether the kernel makes huge pages where it is asked to: the selected word of `enabled`.
fn transparent(enabled: Option<&str>) -> Result<(), &'static str> {
    match enabled {
        None => Err("the host's kernel has no transparent huge pages"),
        Some(text) if text.contains("[never]") || text.contains("[deny]") => {
            Err("transparent huge pages are off on the host")
        }
        Some(_) => Ok(()),
    }
}

/// The file that sets how many pages of a size the host has.
pub fn knob(page: HugePage) -> PathBuf {
    dir(Path::new(SYSFS), page).join("nr_hugepages")
}

fn dir(sysfs: &Path, page: HugePage) -> PathBuf {
    sysfs.join(format!("hugepages-{}kB", page.size() >> 10))
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn the_selected_word_counts() {
        assert!(transparent(Some("always [madvise] never\n")).is_ok());
        assert!(transparent(Some("[always] madvise never\n")).is_ok());
        assert!(
            transparent(Some("always madvise [never]\n"))
                .unwrap_err()
                .contains("off")
        );
        assert!(transparent(None).unwrap_err().contains("has no"));
    }

    #[test]
    fn promised_pages_are_not_free() {
        let root = TempDir::new().unwrap();
        let read = || Reserve::read_at(root.as_path(), HugePage::Mib2);
        assert_eq!(read(), None);
        let dir = dir(root.as_path(), HugePage::Mib2);
        fs::create_dir(&dir).unwrap();
        for (name, value) in [
            ("nr_hugepages", "10\n"),
            ("free_hugepages", "7\n"),
            ("resv_hugepages", "3\n"),
        ] {
            fs::write(dir.join(name), value).unwrap();
        }
        let reserve = Reserve { total: 10, free: 4 };
        assert_eq!(read(), Some(reserve));
        assert_eq!(
            knob(HugePage::Gib1).to_str(),
            Some("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
        );
    }
}
