//! Clients of root's and of another user's, who may open some nodes of a made-up host.

use std::fs::{self, Permissions, create_dir_all};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use vmm_sys_util::tempdir::TempDir;

use super::*;
use crate::broker::fake::{DISK, NET, PHYSICAL, VIRTUAL, host};
use crate::hostinfo::permission::Credentials;

/// The run's user, who is in no group.
const USER: u32 = 4_000_000_001;

/// Clients whose next request is this.
struct Client(u32, Vec<Device>);

impl Admission for Client {
    fn asked(&self, _: &File) -> io::Result<Asked> {
        let devices = self.1.clone();
        Ok(Asked {
            uid: self.0,
            devices,
        })
    }
}

fn device(name: &str, right: Right) -> Device {
    let name = name.parse().unwrap();
    Device { name, right }
}

/// The user may open the node of the disk, and the group of the virtual function.
fn nodes() -> (TempDir, RunUser) {
    let dev = TempDir::new_with_prefix(Path::new("/tmp/mini-vmm-admission-")).unwrap();
    let at = |path: &str| dev.as_path().join(path);
    create_dir_all(at("vfio/devices")).unwrap();
    for (node, mode) in [
        ("vfio/devices/vfio0", 0o666),
        ("vfio/7", 0o660),
        ("vfio/devices/vfio1", 0o664),
        ("vfio/8", 0o600),
        ("vfio/9", 0o660),
        ("vfio/10", 0o666),
    ] {
        fs::write(at(node), "").unwrap();
        fs::set_permissions(at(node), Permissions::from_mode(mode)).unwrap();
    }
    for folder in ["", "vfio", "vfio/devices"] {
        fs::set_permissions(at(folder), Permissions::from_mode(0o755)).unwrap();
    }
    let credentials = Credentials {
        uid: USER,
        groups: Vec::new(),
    };
    let user = RunUser::at(credentials, dev.as_path().into());
    (dev, user)
}

fn null() -> File {
    File::open("/proc/version").unwrap()
}

#[test]
fn only_roots_clients_have_roots_rights() {
    let (_root, sysfs) = host();
    let (_dev, user) = nodes();
    let all = [DISK, NET, VIRTUAL, PHYSICAL];
    let ask = |uid, asked: &[Device], user: Option<&RunUser>| {
        // The flags have named this device.
        let named = Named::only([device(PHYSICAL, Right::Bind)]);
        let clients = Client(uid, asked.to_vec());
        devices(&sysfs, &named, &clients, user, &null()).map_err(|e| e.raw_os_error())
    };
    for right in [Right::Open, Right::Bind] {
        for name in all {
            let asked = [device(name, right)];
            // Root's; and those of a run that is its own user's.
            assert_eq!(ask(0, &asked, Some(&user)), Ok(asked.to_vec()));
            assert_eq!(ask(USER, &asked, None), Ok(asked.to_vec()));
        }
    }
    for (name, right, gets) in [
        // Its own node, or its group's.
        (DISK, Right::Open, Some(Right::AsUser)),
        (VIRTUAL, Right::Open, Some(Right::AsUser)),
        (NET, Right::Open, None),
        ("0000:0f:00.0", Right::Open, None),
        // Nothing is bound for the user.
        (DISK, Right::Bind, None),
        (NET, Right::Bind, None),
        // What root has named stays as it is.
        (PHYSICAL, Right::Open, Some(Right::Open)),
        (PHYSICAL, Right::Bind, Some(Right::Bind)),
    ] {
        let found = ask(USER, &[device(name, right)], Some(&user));
        let wanted = gets.map(|right| vec![device(name, right)]);
        assert_eq!(found, wanted.ok_or(Some(libc::EPERM)), "{name} {right:?}");
    }
    // All of a request or nothing.
    let both = [device(DISK, Right::Open), device(NET, Right::Open)];
    assert_eq!(ask(USER, &both, Some(&user)), Err(Some(libc::EPERM)));
}

/// Nodes are looked at again when they are opened.
#[test]
fn nodes_of_the_users_devices_are_the_users() {
    let (root, sysfs) = host();
    let (dev, user) = nodes();
    let named = Named::only([
        device(DISK, Right::AsUser),
        device(VIRTUAL, Right::AsUser),
        device(NET, Right::Open),
    ]);
    let broker = crate::broker::Broker {
        sysfs,
        ..crate::broker::Broker::new(named, std::sync::Arc::new(Nobody), None)
    };
    let broker = broker.run_as(user);
    for (path, opened) in [
        ("/dev/vfio/devices/vfio0", true),
        // The node of the disk's group is root's.
        ("/dev/vfio/7", false),
        ("/dev/vfio/10", true),
        // Root has named the network card.
        ("/dev/vfio/8", true),
        ("/dev/vfio/devices/vfio1", true),
        ("/dev/vfio/9", false),
        ("/dev/iommu", true),
        ("/dev/vfio/vfio", true),
    ] {
        assert_eq!(broker.node_to_open(path).is_ok(), opened, "{path}");
    }
    // The file that was opened counts: somebody has taken the node back meanwhile.
    let node = broker.node("/dev/vfio/devices/vfio0").unwrap();
    let class = root.as_path().join("class/vfio-dev/vfio0");
    create_dir_all(&class).unwrap();
    fs::write(class.join("dev"), "1:3\n").unwrap();
    let null = File::open("/dev/null").unwrap();
    assert!(broker.check_node(&node, &null).is_ok());
    let full = File::open("/dev/full").unwrap();
    assert!(broker.check_node(&node, &full).is_err());
    let taken = dev.as_path().join("vfio/devices/vfio0");
    fs::set_permissions(&taken, Permissions::from_mode(0o600)).unwrap();
    assert!(broker.node_to_open("/dev/vfio/devices/vfio0").is_err());
}

/// The numbers of /dev/zero and /dev/full lead to a device and to a group.
#[test]
fn an_open_node_is_a_right_to_its_device() {
    let (root, sysfs) = host();
    let (_dev, user) = nodes();
    let chars = root.as_path().join("dev/char");
    create_dir_all(&chars).unwrap();
    for (number, dir, class, name) in [
        ("1:5", "devices/x/vfio-dev/vfio1", "vfio-dev", Some(NET)),
        ("1:7", "devices/virtual/vfio/7", "vfio", None),
    ] {
        let dir = root.as_path().join(dir);
        create_dir_all(&dir).unwrap();
        symlink(format!("../class/{class}"), dir.join("subsystem")).unwrap();
        if let Some(name) = name {
            symlink(format!("../../../{name}"), dir.join("device")).unwrap();
        }
        symlink(&dir, chars.join(number)).unwrap();
    }
    let open = |path: &str, flags: i32| {
        let mut options = File::options();
        options.read(true).write(flags != libc::O_RDONLY);
        options.custom_flags(flags & libc::O_PATH);
        options.open(path).unwrap()
    };
    let shown = |path: &str, flags: i32, user: Option<&RunUser>| {
        let named = Named::only([]);
        devices(&sysfs, &named, &Nobody, user, &open(path, flags)).ok()
    };
    let one = |right| Some(vec![device(NET, right)]);
    let both = libc::O_RDWR;
    assert_eq!(shown("/dev/zero", both, None), one(Right::Open));
    // Not to the node of its group, which the user may perhaps not open.
    assert_eq!(shown("/dev/zero", both, Some(&user)), one(Right::AsUser));
    // Everybody may open a path so.
    for flags in [libc::O_RDONLY, both | libc::O_PATH] {
        assert_eq!(shown("/dev/zero", flags, None), None);
    }
    assert_eq!(shown("/dev/full", both, None), None);
    assert_eq!(shown("/dev/null", both, None), None);
}
