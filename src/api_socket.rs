//! Where the socket for requests comes from: `--api-socket PATH`, or a service manager.

use std::io;
use std::path::{Path, PathBuf};

use api::listener::{ListenError, Listener};
use api::witness::Address;
use vmm::sys::listen_fds::{self, ListenFdsError};

/// The socket for requests.
#[derive(Debug)]
pub enum ApiSocket {
    /// There is none.
    None,
    /// Is made at this path.
    Path(PathBuf),
    /// A service manager has made it, and listens.
    Inherited(Listener),
}

/// The reason why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ApiSocketError {
    /// The environment names no valid descriptors.
    #[error(transparent)]
    ListenFds(#[from] ListenFdsError),
    /// The descriptor is no such socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// More than one.
    #[error("LISTEN_FDS in the environment gives {0} sockets, and requests come by one")]
    Several(usize),
    /// Two ways.
    #[error("--api-socket and LISTEN_FDS in the environment both give a socket for requests")]
    Both,
}

impl ApiSocketError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::ListenFds(_) => "unset LISTEN_FDS; systemd sets it for a socket unit".into(),
            Self::Listen(e) => e.hint(),
            Self::Several(_) => {
                "give the socket unit one ListenStream=, and name other descriptors by fd=N".into()
            }
            Self::Both => "leave --api-socket out, or unset LISTEN_FDS".into(),
        }
    }
}

impl ApiSocket {
    /// Finds the socket. To be called while the process has one thread, after the descriptors of
    /// flags were taken over.
    ///
    /// # Errors
    /// The environment does not give one listening Unix socket, or `path` is given too.
    pub fn find(path: Option<PathBuf>) -> Result<Self, ApiSocketError> {
        let mut given = listen_fds::take()?;
        match (given.pop(), path) {
            (Some(_), _) if !given.is_empty() => Err(ApiSocketError::Several(given.len() + 1)),
            (Some(_), Some(_)) => Err(ApiSocketError::Both),
            (Some(socket), None) => Ok(Self::Inherited(Listener::inherit(socket)?)),
            (None, Some(path)) => Ok(Self::Path(path)),
            (None, None) => Ok(Self::None),
        }
    }

    /// Whether there is to be a socket.
    pub fn is_wanted(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// The address, which connections of clients have too.
    ///
    /// # Errors
    /// The path is too long.
    pub fn address(&self) -> io::Result<Option<Address>> {
        match self {
            Self::None => Ok(None),
            Self::Path(path) => Address::at(path).map(Some),
            Self::Inherited(listener) => listener.address().map(Some),
        }
    }

    /// The folder in which the socket is made.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Path(path) => Some(match path.parent() {
                Some(parent) if parent != Path::new("") => parent.into(),
                _ => ".".into(),
            }),
            Self::None | Self::Inherited(_) => None,
        }
    }

    /// Finds out whether the socket can be made. Nothing is changed.
    ///
    /// # Errors
    /// As [`Listener::check`].
    pub fn check(&self) -> Result<(), ListenError> {
        match self {
            Self::Path(path) => Listener::check(path),
            Self::None | Self::Inherited(_) => Ok(()),
        }
    }

    /// Makes the socket, if there is to be one.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn listen(self) -> Result<Option<Listener>, ListenError> {
        match self {
            Self::None => Ok(None),
            Self::Path(path) => Listener::bind(&path).map(Some),
            Self::Inherited(listener) => Ok(Some(listener)),
        }
    }
}
