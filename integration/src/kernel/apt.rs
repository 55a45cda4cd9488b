//! Finds and downloads kernel packages with apt, without installing them. If that fails, the
//! package lists are updated, and the lab tries once more. Lists of the lab's own are updated
//! first.

use std::fs;
use std::path::{Path, PathBuf};

use super::choice::Choice;
use crate::error::{Error, Result};
use crate::host;
use crate::lists::Lists;

/// The package that depends on the release's own kernel. Every Debian release has this package.
const META: &str = "linux-image-cloud-amd64";

/// The suite with the newest kernel source that has been in use elsewhere for some days.
const SUITE: &str = "testing";

/// Downloads the packages of a kernel into `work`. The file name of the first package becomes the
/// kernel's key. A kernel that is in the cache is not downloaded again.
pub fn download(choice: Choice, cache: &Path, work: &Path) -> Result<Vec<PathBuf>> {
    if host::program("apt-get").is_none() {
        return Err(Error::cannot_run(
            "the lab's kernels come from Debian's packages, and this machine has no apt-get",
            "run the lab on Debian 12 or newer",
        ));
    }
    let lists = match choice {
        Choice::Stock | Choice::Newest | Choice::Lab => Lists::of_machine(),
        Choice::LabNewest => Lists::of_suite(SUITE, cache)?,
    };
    let first = if lists.are_the_labs() {
        Err(Error::failed("the lab's own package lists are read anew"))
    } else {
        attempt(choice, &lists, cache, work)
    };
    first.or_else(|first| {
        lists
            .update()
            .and_then(|()| attempt(choice, &lists, cache, work))
            .map_err(|second| {
                Error::cannot_run(
                    format!(
                        "no kernel could be downloaded: {first}; after apt-get update: {second}"
                    ),
                    "check the network and /etc/apt/sources.list, then: apt-get update",
                )
            })
    })
}

/// The newest kernel for all machines that the machine's lists name, without those for clouds.
pub fn newest_image() -> Result<String> {
    let lists = Lists::of_machine();
    let prefix = "linux-image-";
    let names = host::output(lists.command("apt-cache").args(["pkgnames", prefix]))?;
    newest(&names, prefix, "-amd64").ok_or_else(|| {
        Error::cannot_run(
            "the machine's package lists name no kernel for all machines",
            "apt-get update",
        )
    })
}

fn attempt(choice: Choice, lists: &Lists, cache: &Path, work: &Path) -> Result<Vec<PathBuf>> {
    let newest = |prefix: &str, suffix: &str| {
        let names = host::output(lists.command("apt-cache").args(["pkgnames", prefix]))?;
        newest(&names, prefix, suffix)
            .ok_or_else(|| Error::failed(format!("the package lists name no {prefix}…{suffix}")))
    };
    let names = match choice {
        Choice::Stock => resolve(lists, META)?,
        Choice::Newest => resolve(lists, &newest("linux-image-", "-cloud-amd64")?)?,
        Choice::Lab | Choice::LabNewest => vec![newest("linux-source-", "")?],
    };
    let file = file_name(lists, &names[0])?;
    let key = choice.key(file.trim_end_matches(".deb"));
    if cache.join(key).join("vmlinuz").is_file() {
        return Ok(vec![work.join(file)]);
    }
    let mut command = lists.command("apt-get");
    command.current_dir(work).args(["-q", "download"]);
    host::output(command.args(&names))?;
    let found: Vec<PathBuf> = names
        .iter()
        .filter_map(|name| {
            let prefix = format!("{name}_");
            fs::read_dir(work)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| {
                    path.file_name()
                        .is_some_and(|file| file.to_string_lossy().starts_with(&prefix))
                })
        })
        .collect();
    if found.len() == names.len() {
        Ok(found)
    } else {
        Err(Error::failed(format!(
            "apt-get download fetched {} of {} packages",
            found.len(),
            names.len()
        )))
    }
}

/// Finds the packages that contain the kernel and its modules. `image` may be a package that only
/// depends on them.
fn resolve(lists: &Lists, image: &str) -> Result<Vec<String>> {
    let mut packages = vec![image.to_owned()];
    // At most three steps: the meta package, then an image package that is split in two, then the
    // two parts.
    for _ in 0..3 {
        let text = host::output(lists.command("apt-cache").args(["depends", &packages[0]]))?;
        let deeper = kernel_dependencies(&text);
        if deeper.is_empty() {
            break;
        }
        packages = deeper;
        if packages.len() > 1 {
            break;
        }
    }
    Ok(packages)
}

/// The packages with a kernel or its modules in the output of `apt-cache depends`, kernel first.
fn kernel_dependencies(depends: &str) -> Vec<String> {
    let mut found: Vec<String> = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| {
            ["linux-image-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect();
    found.sort_by_key(|name| name.starts_with("linux-modules-"));
    found.dedup();
    found
}

/// The name of the file that `apt-get download` writes for a package.
fn file_name(lists: &Lists, package: &str) -> Result<String> {
    let mut command = lists.command("apt-get");
    let uris = host::output(command.args(["-q", "download", "--print-uris", package]))?;
    // 'URI' FILE SIZE HASH
    let file = uris.split_whitespace().nth(1);
    file.map(str::to_owned)
        .ok_or_else(|| Error::failed(format!("apt-get names no file to download for {package}")))
}

/// The package with the highest version between a prefix and a suffix of its name.
fn newest(names: &str, prefix: &str, suffix: &str) -> Option<String> {
    names
        .lines()
        .filter_map(|name| {
            let version = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            let plain = version.starts_with(|c: char| c.is_ascii_digit())
                && !version.contains("-rt")
                && !version.contains("-cloud")
                && !version.contains("rc");
            plain.then(|| (numbers(version), name.to_owned()))
        })
        .max()
        .map(|(_, name)| name)
}

/// "6.12.117+deb12" as [6, 12, 117, 12].
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_highest_by_number_not_by_text() {
        let names = "linux-image-6.1.0-56-cloud-amd64\n\
                     linux-image-6.12.99+deb12-cloud-amd64\n\
                     linux-image-6.12.117+deb12-cloud-amd64\n\
                     linux-image-6.12.200+deb12-cloud-amd64-dbg\n\
                     linux-image-6.12.201+deb12-cloud-amd64-unsigned\n\
                     linux-image-6.12.202+deb12-rt-cloud-amd64\n\
                     linux-image-6.12-cloud-amd64\n\
                     linux-image-cloud-amd64\n\
                     linux-image-9.0-amd64\n";
        let cloud = |names| newest(names, "linux-image-", "-cloud-amd64");
        assert_eq!(
            cloud(names).as_deref(),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(cloud("linux-image-cloud-amd64\n"), None);
        assert_eq!(
            newest(names, "linux-image-", "-amd64").as_deref(),
            Some("linux-image-9.0-amd64")
        );
        let names = "linux-source\nlinux-source-6.9\nlinux-source-6.12\nlinux-source-7.0-rc3\n";
        assert_eq!(
            newest(names, "linux-source-", "").as_deref(),
            Some("linux-source-6.12")
        );
    }

    #[test]
    fn both_forms_of_package_are_understood() {
        let whole =
            "linux-image-6.1.0-56-cloud-amd64\n  Depends: kmod\n  Depends: initramfs-tools\n";
        assert!(kernel_dependencies(whole).is_empty());
        let split = "linux-image-7.2-cloud-amd64\n  Depends: linux-modules-7.2-cloud-amd64\n  \
                     Depends: linux-binary-7.2-cloud-amd64\n";
        assert_eq!(
            kernel_dependencies(split),
            [
                "linux-binary-7.2-cloud-amd64",
                "linux-modules-7.2-cloud-amd64"
            ]
        );
    }
}
