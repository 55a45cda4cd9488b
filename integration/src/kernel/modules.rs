//! The modules that L1 needs for passthrough, in the order in which they must be loaded. Packages
//! have no modules.dep, so the order comes from the "depends" field of each module.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};

/// The modules that L1 loads. If the package lacks a module, the module is left out, because the
/// kernel may have it built in. If the kernel lacks it too, a scenario fails because /dev/kvm or
/// vfio-pci is missing.
const WANTED: [&str; 4] = ["kvm-amd", "vfio_iommu_type1", "vfio-pci", "nvme"];

/// Unpacks these modules and the modules that they depend on, and writes the load order.
pub fn collect(tree: &Path, into: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for root in ["lib/modules", "usr/lib/modules"] {
        index(&tree.join(root), &mut files);
    }
    if files.is_empty() {
        return Err(Error::failed("the kernel package has no modules"));
    }
    let mut order = Vec::new();
    for name in WANTED {
        add(&key(name), &files, into, &mut order)?;
    }
    let mut text = order.join("\n");
    text.push('\n');
    fs::write(into.join("order"), text).context("write the modules' order")
}

/// The name with underscores: module names use - and _ interchangeably.
fn key(name: &str) -> String {
    name.replace('-', "_")
}

fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) {
    let Ok(list) = fs::read_dir(dir) else { return };
    for entry in list.flatten() {
        let path = entry.path();
        // The links "build" and "source" point out of the tree. They are not followed.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            index(&path, files);
        } else if let Some((name, rest)) = entry.file_name().to_string_lossy().split_once('.')
            && rest.starts_with("ko")
        {
            files.insert(key(name), path);
        }
    }
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    into: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    let file = format!("{name}.ko");
    if order.contains(&file) {
        return Ok(());
    }
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    let data = unpacked(path)?;
    for dependency in depends(&data) {
        add(&key(&dependency), files, into, order)?;
    }
    fs::write(into.join(&file), &data).context(format!("write {file}"))?;
    order.push(file);
    Ok(())
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).context(format!("read {}", path.display())),
    };
    let output = Command::new(tool)
        .arg("-dc")
        .arg(path)
        .output()
        .context(format!("run {tool}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Error::failed(format!(
            "{tool} cannot unpack {}",
            path.display()
        )))
    }
}

/// The names in the "depends=" entry of a module's .modinfo section.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module
        .windows(FIELD.len())
        .position(|window| window == FIELD)
    else {
        return Vec::new();
    };
    let value = &module[at + FIELD.len()..];
    let end = value.iter().position(|&b| b == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let module = b"\x7fELF..license=GPL\0depends=kvm,irqbypass\0retpoline=Y\0";
        assert_eq!(depends(module), ["kvm", "irqbypass"]);
        assert!(depends(b"license=GPL\0depends=\0name=kvm\0").is_empty());
        assert!(depends(b"no such field").is_empty());
    }

    #[test]
    fn a_module_comes_after_those_it_depends_on() {
        let dir = std::env::temp_dir().join(format!("lab-modules-{}", std::process::id()));
        let from = dir.join("tree/lib/modules/1.0/kernel");
        let into = dir.join("into");
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&into).unwrap();
        fs::write(from.join("vfio-pci.ko"), b"\0depends=vfio-pci-core,vfio\0").unwrap();
        fs::write(from.join("vfio-pci-core.ko"), b"\0depends=vfio,irqbypass\0").unwrap();
        fs::write(from.join("vfio.ko"), b"\0depends=\0").unwrap();
        fs::write(from.join("irqbypass.ko"), b"\0depends=\0").unwrap();
        collect(&dir.join("tree"), &into).unwrap();
        let order = fs::read_to_string(into.join("order")).unwrap();
        assert_eq!(
            order,
            "vfio.ko\nirqbypass.ko\nvfio_pci_core.ko\nvfio_pci.ko\n"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
