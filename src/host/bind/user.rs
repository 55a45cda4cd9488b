//! The user who gets a device's nodes, and the permissions that the user still needs for a run.

use std::fs;
use std::path::Path;
use std::process::Command;

use vmm::hostinfo::permission::Credentials;

use crate::bind::error::BindError;
use crate::{limited, limited_command};

/// A user of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, or the number as it was given.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The user's primary group; unknown for a number without a name.
    pub gid: Option<u32>,
}

impl User {
    /// Finds a user by name or number, in /etc/passwd and in the other sources of getent(1).
    ///
    /// # Errors
    /// There is no such user.
    pub fn find(name: &str) -> Result<Self, BindError> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let elsewhere = || {
            // A static program cannot load the host's name services (nsswitch.conf(5)) itself.
            let mut getent = Command::new("getent");
            getent.args(["passwd", "--", name]);
            // A name service may wait for the network.
            let output = limited_command::output(getent, limited::LIMIT).ok()?;
            Self::parse(name, &String::from_utf8_lossy(&output.stdout))
        };
        let number = || {
            Some(Self {
                name: name.into(),
                uid: name
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                    .then(|| name.parse().ok())??,
                gid: None,
            })
        };
        Self::parse(name, &passwd)
            .or_else(elsewhere)
            .or_else(number)
            .ok_or_else(|| BindError::NoUser(name.into()))
    }

    /// The user's other groups, of those in /etc/group. Other sources of groups (nsswitch.conf(5))
    /// are not asked.
    pub fn groups(&self) -> Vec<u32> {
        self.groups_of(&fs::read_to_string("/etc/group").unwrap_or_default())
    }

    /// group(5): name, password, number, members.
    fn groups_of(&self, groups: &str) -> Vec<u32> {
        let number = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, number, members, ..] = fields[..] else {
                return None;
            };
            let is_member = members.split(',').any(|member| member == self.name);
            number.parse().ok().filter(|_| is_member)
        };
        groups.lines().filter_map(number).collect()
    }

    /// passwd(5): name, password, user, group, and more.
    fn parse(name: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [known, _, uid, gid, ..] = fields[..] else {
                return None;
            };
            let fits = !name.is_empty() && (known == name || uid == name);
            fits.then(|| {
                Some(Self {
                    name: known.into(),
                    uid: uid.parse().ok()?,
                    gid: Some(gid.parse().ok()?),
                })
            })?
        })
    }

    /// Whether the user may read and write a node; `None` when there is no such node.
    fn may_use(&self, node: &Path, groups: &str) -> Option<bool> {
        let node = fs::metadata(node).ok()?;
        let groups = self.groups_of(groups).into_iter().chain(self.gid);
        let credentials = Credentials {
            uid: self.uid,
            groups: groups.collect(),
        };
        Some(credentials.has_mode(&node))
    }

    /// The permissions and limits that the user lacks, one sentence each. The device's nodes are
    /// not included.
    pub fn needs(&self, dev: &Path) -> Vec<String> {
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let name = &self.name;
        let mut needs = Vec::new();
        if self.may_use(&dev.join("kvm"), &groups) == Some(false) {
            needs.push(format!(
                "{name} may not open /dev/kvm; as root: usermod -aG kvm {name} (then log in again)"
            ));
        }
        // The user needs only one of the two nodes: a run uses the interface whose node it may
        // open.
        let iommu = ["vfio/vfio", "iommu"].map(|node| self.may_use(&dev.join(node), &groups));
        if !iommu.contains(&Some(true)) && iommu.contains(&Some(false)) {
            needs.push(format!(
                "{name} may not open /dev/vfio/vfio; as root: chmod 666 /dev/vfio/vfio"
            ));
        }
        needs.push(format!(
            "{name} must be allowed to lock the guest's memory: `ulimit -l` above it \
             (/etc/security/limits.conf: {name} - memlock unlimited)"
        ));
        needs
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\nbad\nworse:x:y:z\n";

    #[test]
    fn users_by_name_and_number() {
        let ada = User::parse("ada", PASSWD).unwrap();
        assert_eq!((ada.uid, ada.gid), (1000, Some(1001)));
        assert_eq!(User::parse("1000", PASSWD), Some(ada));
        for name in ["", "bad", "worse", "ad", "y"] {
            assert_eq!(User::parse(name, PASSWD), None, "{name}");
        }
        let groups = "a:x:4:x,ada\nb:x:5:adam\nc:x:z:ada\nd\ne:x:6:ada,y\n";
        let ada = User::parse("ada", PASSWD).unwrap();
        assert_eq!(ada.groups_of(groups), [4, 6]);
        assert!(User::find("no such user").is_err());
        assert_eq!(User::find("4000000001").unwrap().uid, 4_000_000_001);
    }

    #[test]
    fn what_is_missing_is_said() {
        let dev = TempDir::new().unwrap();
        let node = |name: &str, mode| {
            let path = dev.as_path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        let stranger = User {
            name: "nobody-in-particular".into(),
            uid: 4_000_000_001,
            gid: None,
        };
        node("kvm", 0o660);
        node("vfio/vfio", 0o666);
        let needs = stranger.needs(dev.as_path());
        assert_eq!(needs.len(), 2, "{needs:?}");
        assert!(needs[0].contains("/dev/kvm") && needs[1].contains("ulimit -l"));
        node("kvm", 0o666);
        node("vfio/vfio", 0o600);
        let needs = stranger.needs(dev.as_path());
        assert!(
            needs.len() == 2 && needs[0].contains("/dev/vfio/vfio"),
            "{needs:?}"
        );
        // The node's own group may.
        node("kvm", 0o060);
        let gid = fs::metadata(dev.as_path().join("kvm")).unwrap().gid();
        let member = User {
            gid: Some(gid),
            ..stranger.clone()
        };
        assert_eq!(member.may_use(&dev.as_path().join("kvm"), ""), Some(true));
        let listed = format!("kvm:x:{gid}:a,{}\n", stranger.name);
        assert_eq!(
            stranger.may_use(&dev.as_path().join("kvm"), &listed),
            Some(true)
        );
        assert_eq!(
            stranger.may_use(&dev.as_path().join("kvm"), "kvm"),
            Some(false)
        );
    }
}
