//! `host cdi`, as podman with runc understands it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vmm_sys_util::tempdir::TempDir;

use crate::common::asm::Asm;
use crate::common::elf;
use crate::{can_run, find, in_namespace, text_of, write};

/// A host with a disk at vfio-pci in group 7, whose node is `vfio0`.
fn host(root: &Path) {
    let home = root.join("sys/devices/pci0000:00/0000:01:00.0");
    write(&home.join("class"), "0x010802\n");
    write(&home.join("vfio-dev/vfio0/dev"), "511:0\n");
    fs::write(home.join("config"), [0; 64]).unwrap();
    for (link, to) in [
        (
            "sys/bus/pci/devices/0000:01:00.0",
            "devices/pci0000:00/0000:01:00.0",
        ),
        (
            "sys/devices/pci0000:00/0000:01:00.0/driver",
            "bus/pci/drivers/vfio-pci",
        ),
        (
            "sys/devices/pci0000:00/0000:01:00.0/iommu_group",
            "kernel/iommu_groups/7",
        ),
        (
            "sys/kernel/iommu_groups/7/devices/0000:01:00.0",
            "devices/pci0000:00/0000:01:00.0",
        ),
    ] {
        let link = root.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(Path::new("/sys").join(to), link).unwrap();
    }
    for folder in [
        "sys/bus/pci/drivers/vfio-pci",
        "sys/class/vfio-dev",
        "dev",
        "run",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
}

/// Makes a /dev of the usual nodes and made-up ones of VFIO.
const NODES: &str = r#"
mount -t tmpfs -o mode=755 none "$1/dev"
for node in null zero full random urandom tty kvm; do cp -a /dev/$node "$1/dev"; done
mkdir -p "$1/dev/pts" "$1/dev/shm" "$1/dev/mqueue" "$1/dev/vfio/devices"
mknod "$1/dev/iommu" c 1 3
mknod "$1/dev/vfio/vfio" c 1 3
mknod "$1/dev/vfio/7" c 1 5
mknod "$1/dev/vfio/8" c 1 5
mknod "$1/dev/vfio/devices/vfio0" c 1 5
mknod "$1/dev/vfio/devices/vfio1" c 1 5
mount --rbind /dev/pts "$1/dev/pts"
mount --bind "$1/dev" /dev
"#;

/// Writes the specification. The program sees the made-up host's sysfs, and podman does not.
const SPECIFY: &str = r#"
mount --bind "$1/sys" /sys
"$PROGRAM" host cdi --iommu "$INTERFACE" --output "$1/cdi/mini-vmm.json"
"#;

/// `--ulimit`: an engine within limits of its own cannot raise its defaults. An image with busybox
/// lists the nodes, because the image of the static programs has no other program.
const RUN: &str = r#"
mount -t tmpfs none /run
mkdir /run/cdi
cp "$1/cdi/mini-vmm.json" /run/cdi
folder=$1
engine() {
	podman --root "$folder/root" --runroot "$folder/runroot" --storage-driver vfs \
		--cgroup-manager cgroupfs --events-backend none "$@"
}
contain() {
	engine run --rm --runtime runc --network none --ulimit nofile=1024:1024 \
		--ulimit nproc=1024:1024 --device mini-vmm.dev/vfio=0000:01:00.0 "$@"
}
tar -C "$folder/image" -c . | engine import --quiet - busybox:test >&2
contain busybox:test /bin/busybox find /dev/vfio /dev/iommu /dev/kvm | sort
engine load --quiet --input "$IMAGE" >&2
contain --volume "$folder/guest:/guest:ro" "$(engine images --quiet mini-vmm)" \
	--kernel /guest/kernel --memory 64M
"#;

/// Puts busybox into the folder of one image, and a tiny guest beside the images.
fn fill(folder: &Path) {
    fs::create_dir_all(folder.join("image/bin")).unwrap();
    fs::copy(find("busybox").unwrap(), folder.join("image/bin/busybox")).unwrap();
    let mut guest = Asm::new();
    guest.print("a guest in a container\n").power_off();
    fs::create_dir_all(folder.join("guest")).unwrap();
    fs::write(folder.join("guest/kernel"), elf::image(&guest.finish())).unwrap();
}

/// Makes the image of the static programs, built without optimisation, and returns its path.
fn image(folder: &Path) -> String {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = tree.join("target/image-test");
    let target = "x86_64-unknown-linux-gnu";
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build
        .current_dir(tree)
        .args(["build", "--quiet", "--target", target, "--target-dir"]);
    build
        .arg(&built)
        .args(["--package", "mini-vmm", "--package", "mini-vmm-bench"]);
    build.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    text_of(build.output().unwrap());
    let mut make = Command::new(tree.join("resources/package/image.sh"));
    make.arg(built.join(target).join("debug")).arg(folder);
    let first = text_of(make.output().unwrap());
    let bytes = fs::read(first.trim()).unwrap();
    assert_eq!(text_of(make.output().unwrap()), first);
    assert!(bytes == fs::read(first.trim()).unwrap(), "the bytes differ");
    first.trim().into()
}

#[test]
fn a_container_has_exactly_the_nodes_and_runs_a_guest() {
    if !can_run(&["podman", "runc", "busybox"]) {
        return;
    }
    if !Path::new("/dev/kvm").exists() {
        return crate::skipped("there is no /dev/kvm");
    }
    let made = TempDir::new().unwrap();
    let image = image(made.as_path());
    for (interface, nodes) in [
        (
            "container",
            ["/dev/kvm", "/dev/vfio", "/dev/vfio/7", "/dev/vfio/vfio"].as_slice(),
        ),
        (
            "iommufd",
            &[
                "/dev/iommu",
                "/dev/kvm",
                "/dev/vfio",
                "/dev/vfio/devices",
                "/dev/vfio/devices/vfio0",
            ],
        ),
    ] {
        let dir = TempDir::new().unwrap();
        host(dir.as_path());
        fill(dir.as_path());
        let first = format!("INTERFACE={interface}\n{NODES}{SPECIFY}");
        let names = text_of(in_namespace(&first, dir.as_path()));
        assert_eq!(names, "mini-vmm.dev/vfio=0000:01:00.0\n");
        let output = in_namespace(&format!("IMAGE={image}\n{NODES}{RUN}"), dir.as_path());
        let said = text_of(output);
        let lines: Vec<_> = said.lines().collect();
        let (guest, seen) = lines.split_last().unwrap();
        assert_eq!(seen, nodes, "{interface}");
        assert_eq!(*guest, "a guest in a container", "{interface}");
    }
}
