//! The Debian package, of programs without optimisation: lintian and systemd judge it, and dpkg
//! installs and removes it in a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmm_sys_util::tempdir::TempDir;

use crate::{PROGRAM, can_run, in_namespace, text_of};

/// Makes the package, and returns its path.
fn package(folder: &Path) -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(PROGRAM).parent().unwrap();
    // The other program of the package is built beside this test's.
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = Command::new(&cargo);
    build.current_dir(tree).args(["build", "--quiet", "--bins"]);
    text_of(build.output().unwrap());
    let man = folder.join("man");
    let mut pages = Command::new(&cargo);
    pages
        .current_dir(tree)
        .args(["run", "--quiet", "--example", "man", "--"]);
    text_of(pages.arg(&man).output().unwrap());
    let mut make = Command::new(tree.join("resources/package/deb.sh"));
    let path = text_of(make.arg(programs).arg(&man).arg(folder).output().unwrap());
    path.trim().into()
}

#[test]
fn the_package_is_as_debian_wants_it() {
    if !can_run(&["lintian", "dpkg", "systemd-analyze"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let deb = package(dir.as_path());
    let mut lintian = Command::new("lintian");
    lintian.args([
        "--allow-root",
        "--fail-on",
        "error,warning",
        "--tag-display-limit",
        "0",
    ]);
    text_of(lintian.arg(&deb).output().unwrap());

    // A second time the bytes are the same.
    let first = fs::read(&deb).unwrap();
    fs::remove_file(&deb).unwrap();
    assert!(
        first == fs::read(package(dir.as_path())).unwrap(),
        "the bytes differ"
    );

    let root = dir.as_path().join("root");
    let dpkg = |arguments: &[&str]| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", root.display()))
            .arg("--force-depends");
        text_of(dpkg.args(arguments).output().unwrap())
    };
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    dpkg(&["--install", deb.to_str().unwrap()]);
    let installed = Command::new(root.join("usr/bin/mini-vmm"))
        .arg("--version")
        .output();
    assert!(text_of(installed.unwrap()).starts_with("mini-vmm "));
    for file in [
        "usr/bin/mini-vmm-trace",
        "usr/share/man/man1/mini-vmm.1.gz",
        "usr/share/bash-completion/completions/mini-vmm",
        "lib/udev/rules.d/60-mini-vmm.rules",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    // No manual page of a program that the package does not have.
    for page in fs::read_dir(root.join("usr/share/man/man1")).unwrap() {
        let page = page.unwrap().file_name().into_string().unwrap();
        assert!(!page.starts_with("mini-vmm-bench"), "{page}");
    }
    // Nothing is enabled by installing.
    assert!(!root.join("etc/systemd").exists());

    let unit = root.join("lib/systemd/system/mini-vmm@.service");
    check_unit(&unit, dir.as_path());

    fs::create_dir_all(root.join("etc/mini-vmm")).unwrap();
    fs::write(root.join("etc/mini-vmm/web.toml"), "kernel = 'k'\n").unwrap();
    dpkg(&["--purge", "mini-vmm"]);
    let left = Command::new("find")
        .arg(&root)
        .args(["-name", "*mini-vmm*"])
        .output();
    let left = text_of(left.unwrap());
    assert_eq!(left.trim(), root.join("etc/mini-vmm").to_str().unwrap());
}

/// Debian's essential packages in the folder `root`, from the mirror of this machine's own lists.
const DEBIAN: &str = r#"
apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' \
	'Label: Debian' | grep -v -- '-[^ ]*$' >"$1/mirrors"
read -r mirror codename <"$1/mirrors"
mmdebstrap --quiet --variant=essential --include=libgcc-s1 "$codename" "$1/root" "$mirror"
"#;

/// Installs the version before, upgrades it while a guest runs, removes and purges the package.
/// `$NEW` is the package. The guest's end is waited for with the package gone.
const UPGRADE: &str = r#"
cd "$1"
dpkg-deb --raw-extract "$NEW" old
sed -i 's/^Version: .*/Version: 0.0.9/' old/DEBIAN/control
dpkg-deb --root-owner-group --build old root/old.deb >&2
cp "$NEW" root/new.deb
mkdir -p root/etc/mini-vmm
echo "kernel = '/kernel'" >root/etc/mini-vmm/web.toml
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount -t tmpfs tmpfs root/run
files() {
	find root -xdev -not -path 'root/var/log/*' -not -path 'root/var/lib/dpkg/*' | sort >"$1"
}
inside() {
	LC_ALL=C chroot root /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
files before
inside dpkg --install /old.deb >&2
chroot root /usr/bin/mini-vmm --config /etc/mini-vmm/web.toml --memory 64M \
	--api-socket /run/web.sock >console 2>&1 &
run=$!
trap 'kill "$run" 2>/dev/null || :' EXIT
for _ in $(seq 300); do
	if grep -q 'the guest runs' console; then break; fi
	sleep 0.1
done
grep -q 'the guest runs' console || { cat console >&2; exit 1; }
inside dpkg --install /new.deb >&2
inside dpkg-query --show --showformat '${Version} ${Status}\n' mini-vmm
inside mini-vmm ctl /run/web.sock info | grep '^state'
inside dpkg --remove mini-vmm >&2
kill -0 "$run"
kill "$run"
wait "$run"
echo "the run has ended"
inside dpkg --purge mini-vmm >&2
files after
diff before after && echo "nothing is left"
cat root/etc/mini-vmm/web.toml
"#;

#[test]
fn the_package_is_upgraded_and_removed_while_a_guest_runs() {
    use crate::common::asm::Asm;
    use crate::common::elf;

    if !can_run(&["mmdebstrap", "dpkg", "apt-get"]) {
        return;
    }
    if !Path::new("/dev/kvm").exists() {
        return crate::skipped("there is no /dev/kvm");
    }
    let dir = TempDir::new().unwrap();
    let new = package(dir.as_path());
    text_of(in_namespace(DEBIAN, dir.as_path()));
    let mut guest = Asm::new();
    guest.print("the guest runs\n").hang();
    let kernel = dir.as_path().join("root/kernel");
    fs::write(kernel, elf::image(&guest.finish())).unwrap();
    let script = format!("NEW={}\n{UPGRADE}", new.display());
    let said = text_of(in_namespace(&script, dir.as_path()));
    let lines: Vec<_> = said.lines().collect();
    let version = concat!(env!("CARGO_PKG_VERSION"), " install ok installed");
    assert_eq!(lines[0], version);
    assert!(lines[1].starts_with("state    running"), "{said}");
    assert_eq!(
        lines[2..],
        ["the run has ended", "nothing is left", "kernel = '/kernel'"],
        "{said}"
    );
}

/// systemd reads the unit without a complaint, and finds it no wider than it must be.
fn check_unit(unit: &Path, folder: &Path) {
    // The program of the unit is where the package puts it, which may be nowhere on this machine.
    let instance = folder.join("mini-vmm@web.service");
    let text = fs::read_to_string(unit).unwrap();
    fs::write(&instance, text.replace("/usr/bin/mini-vmm", PROGRAM)).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let output = verify
        .args(["verify", "--man=no"])
        .arg(&instance)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("mini-vmm"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=60"]);
    text_of(security.arg(&instance).output().unwrap());
}

/// What a service manager hears: nothing before the guest runs, and then `READY=1`.
#[test]
fn a_service_manager_is_told_that_the_guest_runs() {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use crate::common::asm::Asm;
    use crate::common::elf::{self, TempFile};

    if !Path::new("/dev/kvm").exists() {
        return crate::skipped("there is no /dev/kvm");
    }
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let run = |kernel: &Path| {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--kernel")
            .arg(kernel)
            .args(["--memory", "64M"]);
        command.env("NOTIFY_SOCKET", &path).output().unwrap()
    };
    // A run that fails says nothing.
    assert!(!run(Path::new("/nowhere")).status.success());
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 16]).is_err());
    manager.set_nonblocking(false).unwrap();
    let mut guest = Asm::new();
    guest.print("runs").power_off();
    let kernel = TempFile::new(&elf::image(&guest.finish()));
    assert!(run(kernel.path()).status.success());
    let mut heard = [0; 16];
    let count = manager.recv(&mut heard).unwrap();
    assert_eq!(&heard[..count], b"READY=1");
}
