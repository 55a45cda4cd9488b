//! `--run-as USER`: what the run's user gets from root before the process becomes the user's.
//!
//! The paths are root's words, but other users may own folders on the way. So no symbolic link is
//! followed, and what is looked at is the file that is given away: both are done with one
//! descriptor.

mod no_links;

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use host::bind::{BindError, User};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;
use vmm::config::{Statistics, VmConfig};
use vmm::sandbox::run_as::RunAs;
use vmm::sys::descriptor::Descriptor;

use crate::api_socket::ApiSocket;

/// Why a user does not get what the run needs.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There is no such user.
    #[error(transparent)]
    NoUser(#[from] BindError),
    /// The user has no group.
    #[error("--run-as {0}: the user has no entry in the list of users, and so no group")]
    NoGroup(String),
    /// Root is no other user.
    #[error("--run-as {0}: this user is root")]
    Root(String),
    /// Another user cannot become the user.
    #[error("--run-as {0}: only root can start a run that is another user's")]
    NotRoot(String),
    /// A folder that others use.
    #[error(
        "{} is not {user}'s, who could not make the socket there, and is not an empty folder of \
         root's, which could become {user}'s",
        path.display()
    )]
    Shared {
        /// The folder.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// A file that others have made.
    #[error("{} exists, and {user} may not read and write it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// A path with a symbolic link.
    #[error(
        "a part of the path {} is a symbolic link, which --run-as does not follow",
        .0.display()
    )]
    Link(PathBuf),
    /// A kernel that follows all links.
    #[error(
        "before Linux 5.6, {} cannot be opened without following symbolic links (openat2), and so \
         not be given to {user}",
        path.display()
    )]
    OldKernel {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// The kernel refuses.
    #[error("{} cannot be opened for {user} and given to {user}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
        /// Why.
        source: io::Error,
    },
}

impl HandoverError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::NoUser(e) => e.hint().unwrap_or_default(),
            Self::NoGroup(_) => "give a user with a name: getent passwd".into(),
            Self::Root(_) => "leave --run-as out, or name another user".into(),
            Self::NotRoot(_) => "start mini-vmm as root, or leave --run-as out".into(),
            Self::Shared { path, user } => {
                let socket = path.join(user).join("api.sock");
                let own = socket.parent().unwrap_or(path);
                format!(
                    "make a folder for the socket: mkdir {}; and --api-socket {}",
                    own.display(),
                    socket.display()
                )
            }
            Self::Foreign { path, .. } => format!(
                "the run makes the file: rm {}; or name another one",
                path.display()
            ),
            Self::Link(path) => format!(
                "give the path without links: realpath -m {}",
                path.display()
            ),
            Self::OldKernel { .. } => "leave --stats=FILE and --api-socket out".into(),
            Self::Refused { path, .. } => format!(
                "see that its folder is there, and that root may change it: ls -ld {}",
                path.parent().unwrap_or(path).display()
            ),
        }
    }
}

/// Finds the user of `--run-as`.
///
/// # Errors
/// There is no such user, the user is root, or this process is not root's.
pub fn find(name: &str) -> Result<RunAs, HandoverError> {
    let user = User::find(name)?;
    let groups = user.groups();
    let gid = user.gid.ok_or(HandoverError::NoGroup(name.into()))?;
    match user.uid {
        0 => Err(HandoverError::Root(user.name)),
        _ if !geteuid().is_root() => Err(HandoverError::NotRoot(user.name)),
        uid => Ok(RunAs {
            name: user.name,
            uid,
            gid,
            groups,
        }),
    }
}

/// Gives the user the file of `--stats` and the folder of `--api-socket`, and opens KVM for the
/// run. Returns the file of `--stats`. To be called before a device is taken, so that an error
/// finds none bound.
///
/// # Errors
/// The folder or the file is in use by others, or the kernel refuses.
pub fn hand_over(
    user: &RunAs,
    config: &mut VmConfig,
    api_socket: &ApiSocket,
) -> Result<Option<File>, HandoverError> {
    if let Some(folder) = api_socket.folder() {
        give_folder(user, &folder)?;
    }
    let report = match &config.statistics {
        Statistics::Json(path) => Some(report_file(user, path)?),
        Statistics::Off | Statistics::Table => None,
    };
    if config.kvm.is_none()
        && let Ok(kvm) = File::options().read(true).write(true).open("/dev/kvm")
    {
        // Without this file, the start says what is wrong with the node.
        config.kvm = Some(Descriptor::adopt(kvm.into()));
    }
    Ok(report)
}

/// Opens a path without following links.
fn open(user: &RunAs, path: &Path, flags: OFlags) -> Result<File, HandoverError> {
    no_links::open(path, flags).map_err(|errno| match errno {
        Errno::LOOP => HandoverError::Link(path.into()),
        Errno::NOSYS => HandoverError::OldKernel {
            path: path.into(),
            user: user.name.clone(),
        },
        errno => refused(user, path)(errno.into()),
    })
}

fn refused(user: &RunAs, path: &Path) -> impl Fn(io::Error) -> HandoverError {
    let (path, user) = (path.to_path_buf(), user.name.clone());
    move |source| HandoverError::Refused {
        path: path.clone(),
        user: user.clone(),
        source,
    }
}

fn give(user: &RunAs, path: &Path, file: &File) -> Result<(), HandoverError> {
    fchown(file, Some(user.uid), Some(user.gid)).map_err(refused(user, path))
}

/// The file of `--stats`. A file that the run makes becomes the user's. One that is there already
/// keeps its owner, and the user must have the right to read and write it: the path may lead
/// through a folder of the user's, who could have put any file of root's there, by a hard link for
/// example.
fn report_file(user: &RunAs, path: &Path) -> Result<File, HandoverError> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match no_links::open(path, flags | OFlags::CREATE | OFlags::EXCL) {
        Ok(file) => give(user, path, &file).map(|()| file),
        // Also what open() says of a link, and of any other error.
        Err(_) => {
            let file = open(user, path, flags)?;
            match user.credentials().may_use(&file) {
                true => Ok(file),
                false => Err(HandoverError::Foreign {
                    path: path.into(),
                    user: user.name.clone(),
                }),
            }
        }
    }
}

/// A folder that is not the user's becomes so if it is root's and nobody else uses it: one such as
/// /tmp, or a home, must not get another owner.
fn give_folder(user: &RunAs, path: &Path) -> Result<(), HandoverError> {
    let folder = open(user, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let data = folder.metadata().map_err(refused(user, path))?;
    if data.uid() == user.uid && data.mode() & 0o300 == 0o300 {
        return Ok(());
    }
    let shared = data.mode() & 0o1022 != 0;
    let empty = no_links::is_empty(&folder).map_err(|e| refused(user, path)(e.into()))?;
    match data.uid() == 0 && empty && !shared {
        true => give(user, path, &folder),
        false => Err(HandoverError::Shared {
            path: path.into(),
            user: user.name.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;
