//! Network ports in sysfs.

use std::fs;
use std::path::Path;

use crate::error::{Context, Result};

/// A network port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface's name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
}

/// All ports that are below a PCI device, or below the one with this directory, in order of name.
/// `sys` is /sys.
///
/// # Errors
/// sysfs cannot be read.
pub fn all(sys: &Path, device: Option<&Path>) -> Result<Vec<Port>> {
    let class = sys.join("class/net");
    let device = device.map(|device| fs::canonicalize(device).unwrap_or_else(|_| device.into()));
    let entries = match fs::read_dir(&class) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context(format!("cannot read {}", class.display())),
    };
    let mut ports = Vec::new();
    for entry in entries.flatten() {
        let Ok(path) = fs::canonicalize(entry.path()) else {
            continue;
        };
        let is_below = match &device {
            Some(device) => path.starts_with(device),
            None => path
                .components()
                .any(|part| part.as_os_str().to_string_lossy().starts_with("pci")),
        };
        if is_below {
            let mac = fs::read_to_string(path.join("address")).unwrap_or_default();
            ports.push(Port {
                name: entry.file_name().to_string_lossy().into_owned(),
                mac: mac.trim().to_owned(),
            });
        }
    }
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_ports_of_pci_devices_are_found() {
        let sys = std::env::temp_dir().join(format!("bench-ports-{}", std::process::id()));
        assert!(all(&sys, None).unwrap().is_empty());
        fs::create_dir_all(sys.join("class/net")).unwrap();
        for (name, at) in [
            ("eth1", "devices/pci0000:00/0000:00:07.0/net/eth1"),
            ("eth0", "devices/pci0000:00/0000:00:06.0/virtio1/net/eth0"),
            ("lo", "devices/virtual/net/lo"),
        ] {
            let dir = sys.join(at);
            fs::create_dir_all(&dir).unwrap();
            fs::write(
                dir.join("address"),
                format!("52:54:00:00:00:0{}\n", name.len()),
            )
            .unwrap();
            symlink(&dir, sys.join("class/net").join(name)).unwrap();
        }
        let names = |device: Option<&Path>| -> Vec<String> {
            let found = all(&sys, device).unwrap();
            found.into_iter().map(|port| port.name).collect()
        };
        assert_eq!(names(None), ["eth0", "eth1"]);
        let device = sys.join("devices/pci0000:00/0000:00:06.0");
        assert_eq!(names(Some(&device)), ["eth0"]);
        let mac = all(&sys, Some(&device)).unwrap().remove(0).mac;
        assert_eq!(mac, "52:54:00:00:00:04");
        fs::remove_dir_all(&sys).unwrap();
    }
}
