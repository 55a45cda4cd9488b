//! The firmware files that modules ask for, as far as the host has them. A module names them in its
//! information, as `firmware=NAME` (include/linux/module.h, MODULE_FIRMWARE), and the kernel looks
//! for them below /lib/firmware (Documentation/driver-api/firmware/fw_search_path.rst).

use std::path::{Component, Path, PathBuf};

const MARK: &[u8] = b"firmware=";
/// No name is longer.
const LONGEST: usize = 255;

/// The names of the firmware that an unpacked module may ask for. The module's information is a
/// section of texts, each with a zero at its end, so a mark stands behind a zero.
pub fn names(module: &[u8]) -> Vec<String> {
    let texts = module.split(|byte| *byte == 0);
    let named = texts.filter_map(|text| text.strip_prefix(MARK));
    let names = named.filter_map(|name| str::from_utf8(name).ok());
    let mut names: Vec<_> = names.filter(|name| is_below(name)).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(str::to_owned).collect()
}

/// Whether a name stays below the directory of firmware.
fn is_below(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    (1..=LONGEST).contains(&name.len()) && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Where the kernel of this release finds a firmware file below `firmware`, such as /lib/firmware.
/// `None` if the host does not have it: a module also names what other models of its device need.
pub fn find(firmware: &Path, release: &str, name: &str) -> Option<PathBuf> {
    let updates = firmware.join("updates");
    let directories = [
        updates.join(release),
        updates,
        firmware.join(release),
        firmware.to_owned(),
    ];
    let files = directories.iter().flat_map(|directory| {
        // A packed file has the same name with an end (CONFIG_FW_LOADER_COMPRESS).
        ["", ".zst", ".xz"].map(|end| directory.join(format!("{name}{end}")))
    });
    files.into_iter().find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_module_names_its_firmware() {
        let module = b"\x7fELF\0license=GPL\0firmware=rtl_nic/rtl8168h-2.fw\0firmware=a.fw\0\
            xfirmware=b.fw\0firmware=a.fw\0firmware=../c\0firmware=/d\0firmware=\0firmware=\xff\0\
            alias=pci:firmware=e\0";
        assert_eq!(names(module), ["a.fw", "rtl_nic/rtl8168h-2.fw"]);
        assert!(names(b"").is_empty());
    }

    #[test]
    fn firmware_is_where_the_kernel_looks() {
        let dir = std::env::temp_dir().join(format!("bench-firmware-{}", std::process::id()));
        let find = |name: &str| {
            let found = find(&dir, "6.1", name)?;
            Some(found.strip_prefix(&dir).unwrap().to_str()?.to_owned())
        };
        // Each file is found before the ones that were there already.
        for file in [
            "rtl/a.fw.xz",
            "rtl/a.fw.zst",
            "rtl/a.fw",
            "6.1/rtl/a.fw",
            "updates/rtl/a.fw.xz",
            "updates/6.1/rtl/a.fw",
        ] {
            fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            fs::write(dir.join(file), "").unwrap();
            assert_eq!(find("rtl/a.fw").as_deref(), Some(file));
        }
        assert_eq!(find("rtl"), None);
        assert_eq!(find("b.fw"), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
