//! `--persist`.

use std::fs;
use std::process::Command;

use super::*;
use crate::list::{self, Kept};
use crate::names::Names;
use crate::persist::{Files, PersistError};

const RULE: &str = "etc/udev/rules.d/05-mini-vmm-0000:01:00.0.rules";
const HOOK: &str = "etc/initramfs-tools/hooks/mini-vmm";
const UPDATE: &str = "update-initramfs -u -k all";

fn lasting(addresses: &[&str]) -> BindRequest {
    BindRequest {
        persist: true,
        ..request(addresses)
    }
}

fn ended(addresses: &[&str]) -> UnbindRequest {
    UnbindRequest {
        persist: true,
        ..back(addresses)
    }
}

fn with_initramfs(host: FakeHost) -> FakeHost {
    fs::create_dir_all(host.dir.as_path().join("etc/initramfs-tools/hooks")).unwrap();
    host
}

/// The files below etc, with their permissions and texts.
fn files(host: &FakeHost) -> Vec<(String, u32, String)> {
    fn collect(folder: &std::path::Path, all: &mut Vec<(String, u32, String)>) {
        use std::os::unix::fs::PermissionsExt;
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, all);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                let text = fs::read_to_string(&path).unwrap();
                all.push((path.display().to_string(), mode, text));
            }
        }
        all.sort();
    }
    let mut all = Vec::new();
    collect(&host.dir.as_path().join("etc"), &mut all);
    let root = format!("{}/", host.dir.as_path().display());
    let below = all
        .into_iter()
        .map(|(path, mode, text)| (path.replace(&root, ""), mode, text));
    below.collect()
}

fn names(host: &FakeHost) -> Vec<String> {
    files(host).into_iter().map(|(name, ..)| name).collect()
}

/// The commands since the last call.
fn log(host: &FakeHost) -> Vec<String> {
    host.kernel.log()
}

#[test]
fn a_bind_that_lasts_writes_a_rule_and_its_end_removes_it() {
    let fake = one_disk();
    let lines = bind(&fake.host(), &lasting(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    assert_eq!(names(&fake), [RULE]);
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("0000:01:00.0: vfio-pci at each boot, by "),
        "{lines:?}"
    );
    // The next boot: nothing is in /run.
    fs::remove_dir_all(fake.dir.as_path().join("run")).unwrap();
    let (lines, errors) = unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    let told = "0000:01:00.0: with the host's driver at each boot";
    assert!(lines.iter().any(|line| line == told), "{lines:?}");
    assert_eq!(names(&fake), [""; 0]);
    assert!(!log(&fake).contains(&UPDATE.to_string()));
}

#[test]
fn a_host_with_initramfs_tools_gets_the_hook() {
    let disks = FakeHost::new(&["nvme", "vfio-pci"])
        .device(DISK, NVME, Some("nvme"), Some(1))
        .device("0000:02:00.0", NVME, Some("nvme"), Some(2));
    let fake = with_initramfs(disks);
    bind(&fake.host(), &lasting(&[DISK, "02:00.0"])).unwrap();
    assert_eq!(files(&fake).len(), 3);
    let hook = files(&fake).into_iter().find(|(name, ..)| name == HOOK);
    let (_, mode, text) = hook.unwrap();
    assert_eq!(mode, 0o755);
    // The shell takes it.
    let path = fake.dir.as_path().join(HOOK);
    assert!(
        Command::new("sh")
            .arg("-n")
            .arg(&path)
            .status()
            .unwrap()
            .success(),
        "{text}"
    );
    let said = Command::new("sh")
        .arg(&path)
        .arg("prereqs")
        .output()
        .unwrap();
    assert_eq!(said.stdout, b"udev\n");
    assert_eq!(log(&fake).iter().filter(|line| *line == UPDATE).count(), 1);
    // The hook stays as long as one device needs it.
    unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert_eq!(files(&fake).len(), 2);
    unbind(&fake.host(), &ended(&["02:00.0"])).unwrap();
    assert_eq!(names(&fake), [""; 0]);
    assert_eq!(log(&fake).iter().filter(|line| *line == UPDATE).count(), 2);
}

/// `--dry-run` prints commands that make the same files.
#[test]
fn a_dry_run_shows_all_files() {
    let fake = with_initramfs(one_disk());
    let user = Some("4000000001".into());
    let request = BindRequest {
        user,
        ..lasting(&[DISK])
    };
    let dry = BindRequest {
        dry_run: true,
        ..request.clone()
    };
    let lines = bind(&fake.host(), &dry).unwrap();
    assert_eq!(names(&fake), [""; 0]);
    assert_eq!(lines.last().unwrap(), UPDATE);
    let first = lines
        .iter()
        .position(|line| line.starts_with("cat > "))
        .unwrap();
    let script = lines[first..].join("\n").replace(UPDATE, "");
    fs::create_dir_all(fake.dir.as_path().join("etc/udev/rules.d")).unwrap();
    let mut shell = Command::new("sh");
    assert!(
        shell
            .args(["-e", "-u", "-c", &script])
            .status()
            .unwrap()
            .success()
    );
    let printed = files(&fake);
    for (path, ..) in &printed {
        fs::remove_file(fake.dir.as_path().join(path)).unwrap();
    }
    bind(&fake.host(), &request).unwrap();
    assert_eq!(files(&fake), printed);
    assert!(printed[1].2.contains("OWNER=\"4000000001\""), "{printed:?}");

    let dry = UnbindRequest {
        dry_run: true,
        ..ended(&[DISK])
    };
    let (lines, _) = unbind(&fake.host(), &dry).unwrap();
    assert_eq!(files(&fake), printed);
    let script = lines.iter().filter(|line| line.starts_with("rm "));
    let script: Vec<_> = script.map(String::as_str).collect();
    assert_eq!(lines.last().unwrap(), UPDATE);
    assert!(
        Command::new("sh")
            .args(["-e", "-c", &script.join("\n")])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(names(&fake), [""; 0]);
}

#[test]
fn nothing_lasts_of_a_bind_that_fails() {
    let fake = one_disk();
    fake.kernel.refuse("vfio-pci", DISK);
    bind(&fake.host(), &lasting(&[DISK])).unwrap_err();
    assert_eq!(names(&fake), [""; 0]);
    // The device is with the host, so there is nothing to end.
    let (_, errors) = unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert!(matches!(errors[..], [BindError::NotBound(_)]), "{errors:?}");
}

#[test]
fn a_device_that_has_a_vfio_driver_is_made_to_last() {
    let fake = one_disk();
    bind(&fake.host(), &request(&[DISK])).unwrap();
    let (before, lines) = (
        fake.snapshot(),
        bind(&fake.host(), &lasting(&[DISK])).unwrap(),
    );
    assert_eq!(fake.snapshot(), before);
    assert!(
        lines[0].ends_with("bound to vfio-pci already, IOMMU group 1"),
        "{lines:?}"
    );
    assert_eq!(names(&fake), [RULE]);
    // A second time changes nothing.
    bind(&fake.host(), &lasting(&[DISK])).unwrap();
    assert_eq!(names(&fake), [RULE]);
}

#[test]
fn an_unbind_for_now_says_that_the_next_boot_binds_again() {
    let fake = one_disk();
    bind(&fake.host(), &lasting(&[DISK])).unwrap();
    let (lines, _) = unbind(&fake.host(), &back(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    assert!(
        lines[1].starts_with("note: 0000:01:00.0 gets its VFIO driver again"),
        "{lines:?}"
    );
    assert_eq!(names(&fake), [RULE]);
    // The rule of a device that the host has can be removed.
    let (lines, errors) = unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert!(
        errors.is_empty() && lines.len() == 1,
        "{lines:?} {errors:?}"
    );
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    assert_eq!(names(&fake), [""; 0]);
}

#[test]
fn a_group_lasts_and_ends_together() {
    let fake = shared_group();
    let group = BindRequest {
        group: true,
        ..lasting(&["02:00.0"])
    };
    bind(&fake.host(), &group).unwrap();
    assert_eq!(files(&fake).len(), 3);
    fs::remove_dir_all(fake.dir.as_path().join("run")).unwrap();
    let (_, errors) = unbind(&fake.host(), &ended(&["02:00.0"])).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(names(&fake), [""; 0]);
    assert_eq!(fake.driver("0000:02:00.1").as_deref(), Some("e1000e"));
}

#[test]
fn another_device_at_the_address_is_refused_and_told() {
    let fake = one_disk();
    bind(&fake.host(), &lasting(&[DISK])).unwrap();
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    fake.set(
        DISK,
        "modalias",
        "pci:v00001B36d00000099sv0sd0bc01sc08i02\n",
    );
    let before = fake.snapshot();
    let error = bind(&fake.host(), &lasting(&[DISK])).unwrap_err();
    assert!(
        matches!(error, BindError::Persist(PersistError::Other { .. })),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("host unbind 0000:01:00.0 --persist")
    );
    assert_eq!(fake.snapshot(), before);
    // The list tells.
    let kept = kept(&fake).unwrap();
    assert!(kept.other.is_some_and(|other| other.contains("d00000099")));
    unbind(&fake.host(), &ended(&[DISK])).unwrap();
    bind(&fake.host(), &lasting(&[DISK])).unwrap();
    assert!(self::kept(&fake).unwrap().other.is_none());
}

fn kept(fake: &FakeHost) -> Option<Kept> {
    let list = listed(fake);
    list.items.into_iter().find_map(|item| item.kept)
}

fn listed(fake: &FakeHost) -> list::List {
    let host = fake.host();
    let names = Names::parse(b"");
    let mut list = list::list(&host.sysfs, &host.records, &names, false).unwrap();
    list.add_rules(&host.sysfs, Files::of(&host.paths).all().unwrap());
    list
}

#[test]
fn the_list_shows_what_lasts_and_what_is_absent() {
    let fake = one_disk();
    bind(&fake.host(), &lasting(&[DISK])).unwrap();
    let text = list::to_text(&listed(&fake), crate::style::Style::default());
    assert!(
        text.contains("          gets vfio-pci at each boot\n"),
        "{text}"
    );
    unbind(&fake.host(), &back(&[DISK])).unwrap();
    let text = list::to_text(&listed(&fake), crate::style::Style::default());
    assert!(
        text.contains("gets vfio-pci at each boot, but has another driver now"),
        "{text}"
    );
    fake.kernel.remove_device(DISK.parse().unwrap());
    let list = listed(&fake);
    let text = list::to_text(&list, crate::style::Style::default());
    assert!(
        text.contains("0000:01:00.0  absent; gets vfio-pci at each boot"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&list::to_json(&list).unwrap()).unwrap();
    assert_eq!(json["absent"][0]["address"], DISK);
    // The rule of an absent device can be removed.
    let (_, errors) = unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(names(&fake), [""; 0]);
}

#[test]
fn an_initramfs_that_cannot_be_made_is_an_error() {
    let fake = with_initramfs(one_disk());
    fake.kernel.fail(UPDATE);
    let error = bind(&fake.host(), &lasting(&[DISK])).unwrap_err();
    assert_eq!(error.hint().unwrap(), format!("as root: {UPDATE}"));
    // The device is bound, and the rule is there for the next try.
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
    assert_eq!(files(&fake).len(), 2);
    let (_, errors) = unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!(names(&fake), [""; 0]);
}

#[test]
fn a_rule_of_somebody_else_is_no_rule_of_ours() {
    let fake = one_disk();
    bind(&fake.host(), &lasting(&[DISK])).unwrap();
    let path = fake.dir.as_path().join(RULE);
    let good = fs::read_to_string(&path).unwrap();
    for bad in [
        "",
        "# a comment\n",
        &good.replace("\"version\":1", "\"version\":9"),
        &good.replace("0000:01:00.0", "0000:02:00.0"),
        &good.replace("pci:v", "pci:\\\"v"),
    ] {
        fs::write(&path, bad).unwrap();
        let error = bind(&fake.host(), &lasting(&[DISK])).unwrap_err();
        assert!(
            matches!(error, BindError::Persist(PersistError::BadRule(_))),
            "{error}"
        );
        assert_eq!(kept(&fake).map(|kept| kept.rule), None);
    }
    // It can be removed by the command, too.
    let (_, errors) = unbind(&fake.host(), &ended(&[DISK])).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(names(&fake), [""; 0]);
}

/// A kernel's text that means more to udev than itself is not written into a rule.
#[test]
fn an_odd_identity_is_refused() {
    let fake = one_disk();
    for odd in ["", "pci:v*\n", "pci:\"x\n", "pci:$x\n"] {
        fake.set(DISK, "modalias", odd);
        let error = bind(&fake.host(), &lasting(&[DISK])).unwrap_err();
        assert!(
            matches!(error, BindError::Persist(PersistError::Odd(_))),
            "{odd}: {error}"
        );
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        assert_eq!(names(&fake), [""; 0]);
    }
}

/// Nothing is promised that the next boot does not keep.
#[test]
fn a_device_of_a_driver_in_the_kernel_is_refused() {
    let fake = one_disk();
    let modules = fake.dir.as_path().join("modules/6.1.0");
    fs::create_dir_all(&modules).unwrap();
    let list = "ahci.alias=pci:v*d*sv*sd*bc01sc06i01*\0nvme.alias=pci:v*d*sv*sd*bc01sc08i02*\0";
    fs::write(modules.join("modules.builtin.modinfo"), list).unwrap();
    let dry_run = BindRequest {
        dry_run: true,
        ..lasting(&[DISK])
    };
    for request in [lasting(&[DISK]), dry_run] {
        let error = bind(&fake.host(), &request).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("its driver nvme is a part of the kernel"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("host bind 0000:01:00.0"));
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        assert_eq!(names(&fake), [""; 0]);
    }
    // Until the next boot.
    bind(&fake.host(), &request(&[DISK])).unwrap();
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
}
