//! `--run-as USER`: the VMM's process becomes another user's, for good.
//!
//! The processes that open and bind devices are forked before, and keep their rights. The change
//! comes before there are threads and before the first byte of a guest or a client.

use std::io;
use std::sync::OnceLock;

use rustix::process::{DumpableBehavior, getegid, getgroups, set_dumpable_behavior};

use super::process::raise_memory_limit;
use super::thread;
use crate::hostinfo::permission::Credentials;

/// The user of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All other groups.
    pub groups: Vec<u32>,
}

/// Why a run cannot have another user.
#[derive(Debug, thiserror::Error)]
pub enum RunAsError {
    /// The kernel refuses.
    #[error("the run cannot become {name}'s: {call} failed")]
    Call {
        /// The user.
        name: String,
        /// The call.
        call: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl RunAsError {
    /// The remedy.
    pub fn hint(&self) -> String {
        "start mini-vmm as root, or leave --run-as out".into()
    }
}

/// The user whose this process becomes.
static USER: OnceLock<String> = OnceLock::new();

/// The user whose this process has become, if it has. It has no right of root's then, and may not
/// give devices back itself.
pub fn user() -> Option<&'static str> {
    USER.get().map(String::as_str)
}

/// Whether this process has become another user's.
pub fn has_changed() -> bool {
    user().is_some()
}

impl RunAs {
    /// The user with all groups.
    pub fn credentials(&self) -> Credentials {
        let groups = [self.gid].into_iter().chain(self.groups.iter().copied());
        Credentials {
            uid: self.uid,
            groups: groups.collect(),
        }
    }

    /// Does `work` with the user's rights to files, and takes root's back. This process must have
    /// one thread. The user's other processes do not reach its memory meanwhile: the kernel hides
    /// that when the user changes (proc_pid(5)).
    ///
    /// # Errors
    /// The kernel refuses a call. The process may have the user's rights then.
    pub fn try_as<T>(&self, work: impl FnOnce() -> T) -> Result<T, RunAsError> {
        let groups = getgroups().map_err(|e| self.failed("getgroups")(e.into()))?;
        let groups: Vec<_> = groups.into_iter().map(|group| group.as_raw()).collect();
        let (gid, root) = (getegid().as_raw(), 0);
        self.set_groups(&self.groups)?;
        self.set_effective(self.gid, self.uid)?;
        let outcome = work();
        // The user first, which brings the capabilities back that the others take.
        // SAFETY: the call passes a number.
        check(unsafe { libc::seteuid(root) }).map_err(self.failed("seteuid"))?;
        self.set_effective(gid, root)?;
        self.set_groups(&groups)?;
        Ok(outcome)
    }

    fn set_groups(&self, groups: &[u32]) -> Result<(), RunAsError> {
        // SAFETY: the kernel reads the groups, which live for the call.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })
            .map_err(self.failed("setgroups"))
    }

    fn set_effective(&self, gid: u32, uid: u32) -> Result<(), RunAsError> {
        // SAFETY: the calls pass numbers.
        check(unsafe { libc::setegid(gid) }).map_err(self.failed("setegid"))?;
        // SAFETY: as above.
        check(unsafe { libc::seteuid(uid) }).map_err(self.failed("seteuid"))
    }

    fn failed(&self, call: &'static str) -> impl FnOnce(io::Error) -> RunAsError + use<> {
        let name = self.name.clone();
        move |source| RunAsError::Call { name, call, source }
    }

    /// Makes this process, which must have one thread, the user's: user, group and groups, and no
    /// capability. A program that it executes gets none either (no_new_privs). With `locks`, the
    /// limit on locked memory goes before: the kernel looks at CAP_IPC_LOCK at each map for DMA,
    /// and then at that limit. With `shared`, other processes of the user may open this one's
    /// memory.
    ///
    /// # Errors
    /// The kernel refuses a call.
    pub fn enter(&self, locks: bool, shared: bool) -> Result<(), RunAsError> {
        let failed = |call| self.failed(call);
        raise_memory_limit(locks, false);
        // From the first call on, this process may lack what giving devices back takes.
        USER.get_or_init(|| self.name.clone());
        self.set_groups(&self.groups)?;
        // The real, the effective and the saved one: none of them leads back.
        // SAFETY: the calls pass numbers.
        check(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })
            .map_err(failed("setresgid"))?;
        // SAFETY: as above.
        check(unsafe { libc::setresuid(self.uid, self.uid, self.uid) })
            .map_err(failed("setresuid"))?;
        // A user other than root has lost the capabilities of a thread but the inheritable ones
        // (capabilities(7)), unless root's securebits say otherwise.
        thread::limit_capabilities(0).map_err(failed("capset"))?;
        // Else a program with the set-user-ID bit has root's rights again.
        thread::no_new_privileges().map_err(failed("prctl"))?;
        leave_keyring().map_err(failed("keyctl"))?;
        if shared {
            // The kernel has hidden the memory when the user changed (proc_pid(5)).
            set_dumpable_behavior(DumpableBehavior::Dumpable)
                .map_err(|e| failed("prctl")(e.into()))?;
        }
        Ok(())
    }
}

/// Root's session keyring would be this process's still, with all keys that its possessor may read
/// (session-keyring(7)). A process to which keyctl(2) is refused, or whose kernel has no keys, gets
/// at none.
fn leave_keyring() -> io::Result<()> {
    // SAFETY: the call makes a keyring without a name, and takes no pointer but a null one.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match outcome {
        -1 => match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
            e => Err(e),
        },
        _ => Ok(()),
    }
}

fn check(outcome: i32) -> io::Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::process::in_one_thread;

    /// Files are the user's for the time of the work, and root's again afterwards.
    fn tried(user: &RunAs) {
        let state = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let names = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"];
            let fields = status.lines();
            let fields = fields.filter(|line| names.iter().any(|name| line.starts_with(name)));
            fields.map(String::from).collect::<Vec<_>>()
        };
        let path = format!("/tmp/mini-vmm-try-as-{}", std::process::id());
        fs::write(&path, "root's").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let before = state();
        let opened = user.try_as(|| (File::open(&path), state())).unwrap();
        let (Err(e), during) = opened else {
            panic!("the user opens a file of root's");
        };
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        assert_ne!(during, before);
        assert_eq!(state(), before);
        assert!(File::open(&path).is_ok());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_process_becomes_another_users_for_good() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return;
        }
        assert!(in_one_thread(|| {
            let user = RunAs {
                name: "somebody".into(),
                uid: 4_000_001,
                gid: 4_000_002,
                groups: vec![4_000_003, 4_000_004],
            };
            tried(&user);
            user.enter(true, false).unwrap();
            assert!(has_changed());
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            assert_eq!(field("Uid:"), "4000001 4000001 4000001 4000001");
            assert_eq!(field("Gid:"), "4000002 4000002 4000002 4000002");
            assert_eq!(field("Groups:"), "4000003 4000004");
            for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
                assert_eq!(field(set), "0000000000000000", "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), "1");
            assert_eq!(super::user(), Some("somebody"));
            let Credentials { uid, groups } = user.credentials();
            assert_eq!(
                (uid, &groups[..]),
                (4_000_001, &[4_000_002, 4_000_003, 4_000_004][..])
            );
            // SAFETY: the calls pass numbers.
            unsafe {
                assert_eq!(libc::setuid(0), -1);
                assert_eq!(libc::setgid(0), -1);
                assert_eq!(libc::setgroups(0, std::ptr::null()), -1);
            }
            let error = RunAs { uid: 0, ..user }.enter(false, false).unwrap_err();
            assert!(error.to_string().contains("somebody's: setgroups failed"));
        }));
    }
}
