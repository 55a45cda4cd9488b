//! A look at a client's next request by another process than the one that answers.
//!
//! The process that answers may be steered by somebody else. It passes a connection on, and the
//! other process sees what the kernel says of it: who the client is, by which socket the connection
//! came, and the bytes that wait in it.

use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::net::{SocketAddrUnix, getpeername, getsockname};

use crate::limits::{MAX_BODY, MAX_HEAD};
use crate::message::Request;
use crate::parser::{Parsed, parse};
use crate::peer::Peer;
use crate::receive::peek;

/// The address of a socket for requests, which its connections have too (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(SocketAddrUnix);

impl Address {
    /// The address of the socket that is made at a path.
    ///
    /// # Errors
    /// The path is too long.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self(SocketAddrUnix::new(path)?))
    }

    /// The address of a socket or of one of its connections.
    ///
    /// # Errors
    /// It is no Unix socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(SocketAddrUnix::try_from(getsockname(socket)?)?))
    }
}

/// Who may send requests, and to whom.
#[derive(Clone, Debug)]
pub struct Door {
    /// The address of the socket for requests.
    pub address: Address,
    /// The user whose processes may control the run, beside root's.
    pub user: u32,
    /// The process that answers, which is no client of its own.
    pub server: u32,
}

impl Door {
    /// The request that waits whole in a connection, where it stays, and the client's user.
    ///
    /// # Errors
    /// It is no connection of a client who may control the run, or no whole request waits.
    pub fn request(&self, connection: BorrowedFd<'_>) -> io::Result<(Request, u32)> {
        let refused = || io::Error::from_raw_os_error(libc::EACCES);
        let peer = Peer::of(connection)?;
        let may = peer.uid == 0 || peer.uid == self.user;
        let itself = peer.pid == Some(self.server.cast_signed());
        if !may || itself || Address::of(connection)? != self.address || !is_clients(connection)? {
            return Err(refused());
        }
        let waiting = peek(connection, 2 * MAX_HEAD + MAX_BODY)?;
        match parse(&waiting.bytes) {
            Parsed::Whole(request, _) => Ok((*request, peer.uid)),
            Parsed::Partial { .. } | Parsed::Bad(_) => Err(refused()),
        }
    }
}

/// Whether the other end has connected, and has not listened. The user of a listener is the one who
/// called listen(2): a process that binds a socket of its own to the address, and connects that to
/// a service of root's, would show what the service answers as a request of root's. A listener has
/// an address, and all its connections have that; a client has none, unless it takes one.
fn is_clients(connection: BorrowedFd<'_>) -> io::Result<bool> {
    // An address without a name ends where the name would begin (unix(7)).
    let unnamed = mem::offset_of!(libc::sockaddr_un, sun_path);
    let peer = getpeername(connection)?;
    Ok(peer.is_none_or(|peer| usize::try_from(peer.addr_len()) == Ok(unnamed)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn only_a_client_of_the_socket_is_seen() {
        let own = format!("mini-vmm-witness-{}", std::process::id());
        let [path, other_path] =
            ["", "-other"].map(|end| std::env::temp_dir().join(own.clone() + end));
        let listener = UnixListener::bind(&path).unwrap();
        let address = Address::at(&path).unwrap();
        assert_eq!(Address::of(listener.as_fd()).unwrap(), address);
        let door = Door {
            address,
            user: rustix::process::geteuid().as_raw(),
            // This test is the client.
            server: 1,
        };
        let mut client = UnixStream::connect(&path).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let see = |door: &Door| door.request(ours.as_fd()).ok().map(|(seen, _)| seen.path);
        client.write_all(b"PUT /one HTTP/1.1\r\n").unwrap();
        assert_eq!(see(&door), None);
        client.write_all(b"\r\nPUT /two HTTP/1.1\r\n\r\n").unwrap();
        for _ in 0..2 {
            assert_eq!(see(&door).as_deref(), Some("/one"));
        }
        let (_, user) = door.request(ours.as_fd()).unwrap();
        assert_eq!(user, door.user);
        // Itself, and a client of another user. Root may always.
        let server = std::process::id();
        let itself = Door {
            server,
            ..door.clone()
        };
        assert_eq!(see(&itself), None);
        let user = door.user.wrapping_add(1);
        let other = Door {
            user,
            ..door.clone()
        };
        assert_eq!(see(&other).is_some(), door.user == 0);
        // A connection of another socket, and a pair, which has no address.
        let listener = UnixListener::bind(&other_path).unwrap();
        let mut client = UnixStream::connect(&other_path).unwrap();
        let (foreign, _) = listener.accept().unwrap();
        let (pair, mut end) = UnixStream::pair().unwrap();
        for (stream, end) in [(&foreign, &mut client), (&pair, &mut end)] {
            end.write_all(b"PUT /one HTTP/1.1\r\n\r\n").unwrap();
            assert!(door.request(stream.as_fd()).is_err());
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(door.request(file.as_fd()).is_err());
        for path in [path, other_path] {
            std::fs::remove_file(path).unwrap();
        }
    }
    /// What a service answers is no request, also if the service is root's.
    #[test]
    fn a_connection_to_a_service_is_none_of_a_client() {
        let dir = std::env::temp_dir();
        let own = format!("mini-vmm-witness-{}-service", std::process::id());
        let [service, ours] = ["", "-own"].map(|end| dir.join(own.clone() + end));
        let listener = UnixListener::bind(&service).unwrap();
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        );
        let socket = socket.unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&ours).unwrap()).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&service).unwrap()).unwrap();
        let (mut answers, _) = listener.accept().unwrap();
        answers.write_all(b"PUT /one HTTP/1.1\r\n\r\n").unwrap();
        let door = Door {
            address: Address::of(socket.as_fd()).unwrap(),
            user: rustix::process::geteuid().as_raw(),
            server: 1,
        };
        assert!(door.request(socket.as_fd()).is_err());
        for path in [service, ours] {
            std::fs::remove_file(path).unwrap();
        }
    }
}
