//! As root, with files of root's and of others.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use vmm_sys_util::tempdir::TempDir;

use super::*;

const USER: u32 = 4_000_001;

fn somebody() -> RunAs {
    RunAs {
        name: "somebody".into(),
        uid: USER,
        gid: 4_000_002,
        groups: Vec::new(),
    }
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: not root");
    }
    is_root
}

#[test]
fn users_without_a_group_and_root_are_refused() {
    assert!(matches!(
        find("no such user"),
        Err(HandoverError::NoUser(_))
    ));
    for (name, says) in [
        ("4000000001", "so no group"),
        ("root", "is root"),
        ("0", "is root"),
    ] {
        let e = find(name).unwrap_err();
        assert!(e.to_string().contains(says) && !e.hint().is_empty(), "{e}");
    }
    match find("nobody") {
        Ok(user) => assert!(geteuid().is_root() && user.uid == 65534),
        Err(e) => assert!(e.to_string().contains("only root"), "{e}"),
    }
}

#[test]
fn only_an_empty_folder_of_roots_is_given_away() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let owner = || fs::metadata(dir.as_path()).unwrap().uid();
    let mode = |mode| fs::set_permissions(dir.as_path(), Permissions::from_mode(mode)).unwrap();
    let give = || give_folder(&somebody(), dir.as_path());
    for shared in [0o1755, 0o775, 0o757] {
        mode(shared);
        assert!(
            matches!(give(), Err(HandoverError::Shared { .. })),
            "{shared:o}"
        );
    }
    mode(0o755);
    let file = dir.as_path().join("file");
    fs::write(&file, "").unwrap();
    let e = give().unwrap_err();
    assert!(e.hint().contains("mkdir") && owner() == 0, "{e}");
    fs::remove_file(&file).unwrap();
    give().unwrap();
    assert_eq!(owner(), USER);
    // The user's own, in use or not.
    fs::write(&file, "").unwrap();
    give().unwrap();
    chown(dir.as_path(), Some(4_000_009), None).unwrap();
    assert!(give().is_err() && owner() == 4_000_009);
    // No folder.
    let e = give_folder(&somebody(), &file).unwrap_err();
    assert!(matches!(e, HandoverError::Refused { .. }), "{e}");
}

/// The user owns a folder on the way, and puts a link there.
#[test]
fn a_link_leads_nowhere() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let at = |path: &str| dir.as_path().join(path);
    fs::create_dir_all(at("roots/empty")).unwrap();
    fs::write(at("roots/secret"), "root's").unwrap();
    symlink(at("roots"), at("link")).unwrap();
    symlink(at("roots/empty"), at("folder")).unwrap();
    symlink(at("roots/secret"), at("report")).unwrap();
    symlink(at("roots/new"), at("dangling")).unwrap();
    let linked = |outcome: Result<(), HandoverError>| match outcome {
        Err(e @ HandoverError::Link(_)) => !e.hint().is_empty(),
        _ => false,
    };
    for folder in ["link/empty", "folder", "folder/."] {
        assert!(linked(give_folder(&somebody(), &at(folder))), "{folder}");
    }
    for file in ["link/secret", "link/new", "report", "dangling"] {
        let outcome = report_file(&somebody(), &at(file)).map(drop);
        assert!(linked(outcome), "{file}");
    }
    for path in ["roots/empty", "roots/secret"] {
        assert_eq!(fs::metadata(at(path)).unwrap().uid(), 0, "{path}");
    }
    assert_eq!(fs::read(at("roots/secret")).unwrap(), b"root's");
    assert!(!at("roots/new").exists());
}

#[test]
fn only_a_report_that_the_run_makes_becomes_the_users() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("report");
    let data = || fs::metadata(&path).unwrap();
    let open = || report_file(&somebody(), &path);
    drop(open().unwrap());
    assert_eq!((data().uid(), data().gid()), (USER, 4_000_002));
    // The user's from the run before; its text stays until the report is written.
    fs::write(&path, "before").unwrap();
    drop(open().unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"before");
    // Root's, also by a hard link; and one of root's that everybody may write.
    fs::remove_file(&path).unwrap();
    let other = dir.as_path().join("other");
    fs::write(&other, "root's").unwrap();
    fs::hard_link(&other, &path).unwrap();
    let e = open().unwrap_err();
    assert!(matches!(e, HandoverError::Foreign { .. }), "{e}");
    assert!(e.hint().contains("rm "), "{}", e.hint());
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    drop(open().unwrap());
    assert_eq!(data().uid(), 0);
    // A folder, and no folder.
    for path in [dir.as_path(), &path.join("below")] {
        let e = report_file(&somebody(), path).unwrap_err();
        assert!(matches!(e, HandoverError::Refused { .. }), "{e}");
    }
}
