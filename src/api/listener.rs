//! The socket's file: made for its owner alone, replaced only if nobody listens, removed at the
//! end.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::peer::Peer;
use crate::witness::Address;

/// Reading and writing for the owner alone.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// How long another program may keep the folder locked.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why no socket can be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A process listens there.
    #[error("{} is in use{}", path.display(), by(*.pid))]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The process that listens, if the kernel tells.
        pid: Option<i32>,
    },
    /// Something else is there.
    #[error("{} exists and is {what}", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The descriptor is no listening Unix socket.
    #[error("descriptor {0} is no Unix socket that listens for streams")]
    NoListener(i32),
    /// The kernel refuses.
    #[error("cannot make the socket {}", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn by(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

impl ListenError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::InUse { pid, .. } => match pid {
                Some(pid) => format!("choose another path, or end that process: kill {pid}"),
                None => "choose another path".into(),
            },
            Self::NotOurs { .. } => "choose a path that does not exist".into(),
            Self::NoListener(_) => {
                "let systemd listen (ListenStream=/run/…), and name no other socket".into()
            }
            Self::Refused { path, source } => match Errno::from_io_error(source) {
                Some(Errno::NOENT) => {
                    let folder = folder(path);
                    format!("make its folder first: mkdir -p {}", folder.display())
                }
                Some(Errno::ACCESS | Errno::ROFS) => {
                    "choose a folder that this user may write, such as $XDG_RUNTIME_DIR".into()
                }
                Some(Errno::NAMETOOLONG) => "choose a shorter path: 107 bytes at most".into(),
                _ => "choose another path".into(),
            },
        }
    }
}

/// A listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: Option<SocketFile>,
}

/// The file of a socket: it is removed only if it is still the same.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|now| id(&now) == self.id);
        if same && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the socket {}: {e}", self.path.display());
        }
    }
}

fn id(of: &fs::Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

impl Listener {
    /// Finds out whether [`Listener::bind`] could make the socket now. Nothing is changed.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn check(path: &Path) -> Result<(), ListenError> {
        let refused = |errno: Errno| ListenError::Refused {
            path: path.into(),
            source: errno.into(),
        };
        SocketAddrUnix::new(path).map_err(refused)?;
        is_stale(path)?;
        rustix::fs::access(folder(path), Access::WRITE_OK | Access::EXEC_OK).map_err(refused)
    }

    /// Makes the socket, for its owner alone. A socket that refuses connections is replaced: its
    /// process ended without removing it.
    ///
    /// The mode comes from the umask, because there must be no moment at which others may connect.
    /// The umask is the process's: no other thread may make files meanwhile.
    ///
    /// # Errors
    /// The path is in use, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Refused {
            path: path.into(),
            source,
        };
        Self::check(path)?;
        // Two programs must not both find the same dead socket: the second would remove the first's
        // new one.
        let _lock = lock(folder(path));
        if is_stale(path)? {
            fs::remove_file(path).map_err(refused)?;
        }
        let outcome = bind_private(path);
        let socket = outcome.map_err(refused)?;
        let file = SocketFile {
            path: path.into(),
            id: fs::symlink_metadata(path)
                .map(|m| id(&m))
                .map_err(refused)?,
        };
        socket.set_nonblocking(true).map_err(refused)?;
        Ok(Self {
            socket,
            file: Some(file),
        })
    }

    /// Takes a socket that listens already, such as one of systemd's. Its file stays at the end,
    /// because it is not this process's.
    ///
    /// # Errors
    /// The descriptor is no such socket.
    pub fn inherit(socket: OwnedFd) -> Result<Self, ListenError> {
        let number = socket.as_raw_fd();
        let refused = || ListenError::NoListener(number);
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let kind = rustix::net::sockopt::socket_type(&socket).ok();
        let domain = rustix::net::sockopt::socket_domain(&socket).ok();
        if !listens || kind != Some(SocketType::STREAM) || domain != Some(AddressFamily::UNIX) {
            return Err(refused());
        }
        let socket = UnixListener::from(socket);
        socket.set_nonblocking(true).map_err(|_| refused())?;
        Ok(Self { socket, file: None })
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// The address.
    ///
    /// # Errors
    /// The errno.
    pub fn address(&self) -> io::Result<Address> {
        Address::of(self.socket.as_fd())
    }

    /// Stops listening and removes the file.
    pub(crate) fn close(self) {
        // The file goes first: a client that finds the file finds a listener.
        drop(self.file);
        drop(self.socket);
    }
}

/// Binds with the mode [`PRIVATE`]. The umask is the process's: one thread at a time changes it.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    static CHANGES: Mutex<()> = Mutex::new(());
    let _change = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    let before = rustix::process::umask(PRIVATE.complement());
    let outcome = UnixListener::bind(path);
    rustix::process::umask(before);
    outcome
}

/// The folder of a path.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether a dead socket is at the path; `false` if nothing is.
///
/// # Errors
/// Something else is there.
fn is_stale(path: &Path) -> Result<bool, ListenError> {
    let not_ours = |what| ListenError::NotOurs {
        path: path.into(),
        what,
    };
    let in_use = |pid| ListenError::InUse {
        path: path.into(),
        pid,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(found) if found.file_type().is_socket() => {}
        Ok(found) if found.is_dir() => return Err(not_ours("a folder")),
        Ok(_) => return Err(not_ours("no socket")),
        Err(source) => {
            let path = path.into();
            return Err(ListenError::Refused { path, source });
        }
    }
    match connect(path) {
        Ok(pid) => Err(in_use(pid)),
        Err(Errno::CONNREFUSED) => Ok(true),
        // Its process ended meanwhile.
        Err(Errno::NOENT) => Ok(false),
        // Its queue of connections is full.
        Err(Errno::AGAIN) => Err(in_use(None)),
        Err(Errno::PROTOTYPE) => Err(not_ours("a socket of another type")),
        Err(errno) => Err(ListenError::Refused {
            path: path.into(),
            source: errno.into(),
        }),
    }
}

/// Connects; returns the process that listens (unix(7), SO_PEERCRED).
fn connect(path: &Path) -> Result<Option<i32>, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Peer::of(socket.as_fd()).ok().and_then(|peer| peer.pid))
}

/// Locks a folder, until the returned file is dropped; `None` if that does not work in time.
fn lock(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    let end = Instant::now() + PATIENCE;
    while rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Some(folder)
}

#[cfg(test)]
mod tests;
