//! Which files a user may open, by owner, group and mode (path_resolution(7)).
//!
//! The kernel answers this for the process that asks, and for no other. A process of root's that
//! opens a file for a user asks here first.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{fgetxattr, getxattr};
use rustix::io::Errno;

/// Where the kernel keeps the access list of a file (acl(5), xattr(7)).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// The bits of a mode for one of owner, group and others.
const READ_AND_WRITE: u32 = 6;
const SEARCH: u32 = 1;

/// A user, with all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's number.
    pub uid: u32,
    /// The primary group and all others.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Whether the mode of a file lets the user read and write.
    pub fn has_mode(&self, file: &Metadata) -> bool {
        self.has(file, READ_AND_WRITE)
    }

    /// Whether the user may open the file at an absolute path for reading and writing. The answer
    /// is no where an access list decides, which is not read.
    pub fn may_open(&self, path: &Path) -> bool {
        let mut folders = path.ancestors().skip(1);
        folders.all(|folder| self.may(folder, SEARCH)) && self.may(path, READ_AND_WRITE)
    }

    /// As [`Credentials::may_open`], for a file that is open.
    pub fn may_use(&self, file: &File) -> bool {
        let list = || fgetxattr(file, ACCESS_LIST, &mut [0_u8; 64][..]);
        let data = file.metadata();
        data.is_ok_and(|data| self.has_mode(&data) && (self.uid == data.uid() || is_none(list())))
    }

    fn may(&self, path: &Path, bits: u32) -> bool {
        let list = || getxattr(path, ACCESS_LIST, &mut [0_u8; 64][..]);
        let data = fs::metadata(path);
        data.is_ok_and(|data| self.has(&data, bits) && (self.uid == data.uid() || is_none(list())))
    }

    /// One of the three parts of the mode counts, and no other.
    fn has(&self, file: &Metadata, bits: u32) -> bool {
        let shift = if self.uid == file.uid() {
            6
        } else if self.groups.contains(&file.gid()) {
            3
        } else {
            0
        };
        self.uid == 0 || file.mode() >> shift & bits == bits
    }
}

/// Whether there is no access list. With one, the mode's bits of the group are a mask.
fn is_none(list: Result<usize, Errno>) -> bool {
    matches!(list, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{XattrFlags, setxattr};
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    fn user(uid: u32, groups: &[u32]) -> Credentials {
        let groups = groups.to_vec();
        Credentials { uid, groups }
    }

    #[test]
    fn one_part_of_the_mode_counts() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("node");
        File::create(&path).unwrap();
        let data = fs::metadata(&path).unwrap();
        let (owner, group) = (data.uid(), data.gid());
        let stranger = owner.wrapping_add(4321);
        for (mode, own, member, other) in [
            (0o600, true, false, false),
            (0o660, true, true, false),
            (0o666, true, true, true),
            (0o006, false, false, true),
            (0o060, false, true, false),
            (0o066, false, true, true),
            (0o444, false, false, false),
            (0o222, false, false, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let data = fs::metadata(&path).unwrap();
            let root = owner == 0;
            assert_eq!(user(owner, &[]).has_mode(&data), own || root, "{mode:o}");
            assert_eq!(
                user(stranger, &[7, group]).has_mode(&data),
                member,
                "{mode:o}"
            );
            assert_eq!(user(stranger, &[7]).has_mode(&data), other, "{mode:o}");
            assert!(user(0, &[]).has_mode(&data));
        }
    }

    #[test]
    fn each_folder_must_let_the_user_through() {
        let dir = TempDir::new_with_prefix(Path::new("/tmp/mini-vmm-permission-")).unwrap();
        let folder = dir.as_path().join("folder");
        let node = folder.join("node");
        fs::create_dir(&folder).unwrap();
        File::create(&node).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        mode(&node, 0o666);
        mode(&folder, 0o755);
        mode(dir.as_path(), 0o711);
        let somebody = user(4_000_000_001, &[]);
        assert!(somebody.may_open(&node) && !somebody.may_open(&folder.join("none")));
        for (path, closed) in [(&*folder, 0o754), (dir.as_path(), 0o710), (&*node, 0o664)] {
            let before = fs::metadata(path).unwrap().permissions();
            mode(path, closed);
            assert!(!somebody.may_open(&node), "{}", path.display());
            fs::set_permissions(path, before).unwrap();
            assert!(somebody.may_open(&node));
        }
        // A link is as good as what it leads to.
        let link = folder.join("link");
        symlink(&node, &link).unwrap();
        assert!(somebody.may_open(&link));
    }

    /// The list gives the file to one user more. Its mask is the mode's part for the group
    /// (acl(5), "CORRESPONDENCE").
    #[test]
    fn a_file_with_an_access_list_is_not_the_users() {
        let dir = TempDir::new_with_prefix(Path::new("/tmp/mini-vmm-permission-")).unwrap();
        fs::set_permissions(dir.as_path(), Permissions::from_mode(0o755)).unwrap();
        let node = dir.as_path().join("node");
        File::create(&node).unwrap();
        fs::set_permissions(&node, Permissions::from_mode(0o660)).unwrap();
        let data = fs::metadata(&node).unwrap();
        let member = user(data.uid().wrapping_add(4321), &[data.gid()]);
        let file = File::open(&node).unwrap();
        assert!(member.may_open(&node) && member.may_use(&file));
        // Version 2; then tag, permissions and number of each entry (linux/posix_acl_xattr.h):
        // owner, the user 12, group, mask, others.
        let entries: [(u16, u16, u32); 5] = [
            (1, 6, u32::MAX),
            (2, 6, 12),
            (4, 0, u32::MAX),
            (16, 6, u32::MAX),
            (32, 0, u32::MAX),
        ];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, bits, number) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(bits.to_le_bytes());
            list.extend(number.to_le_bytes());
        }
        if let Err(e) = setxattr(&node, ACCESS_LIST, &list, XattrFlags::empty()) {
            eprintln!("SKIPPED: no access lists here: {e}");
            return;
        }
        assert!(member.has_mode(&fs::metadata(&node).unwrap()));
        assert!(!member.may_open(&node) && !member.may_use(&file));
    }
}
