//! Tells a service manager that the guest runs (sd_notify(3)): one datagram to the Unix socket that
//! `NOTIFY_SOCKET` names.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// Says `READY=1`, if a service manager waits for it.
///
/// # Errors
/// The socket cannot be reached.
pub fn ready() -> io::Result<()> {
    match env::var_os(VARIABLE) {
        Some(path) if !path.is_empty() => send(&path, b"READY=1"),
        _ => Ok(()),
    }
}

/// A name that begins with `@` is an abstract one (unix(7)).
fn send(path: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the guest up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn both_kinds_of_sockets() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("notify");
        let abstract_name = format!("@mini-vmm-notify-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&abstract_name.as_bytes()[1..]).unwrap();
        for (name, listener) in [
            (path.as_os_str(), UnixDatagram::bind(&path).unwrap()),
            (
                OsStr::new(&abstract_name),
                UnixDatagram::bind_addr(&by_name).unwrap(),
            ),
        ] {
            send(name, b"READY=1").unwrap();
            let mut read = [0; 16];
            let count = listener.recv(&mut read).unwrap();
            assert_eq!(&read[..count], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/socket"), b"READY=1").is_err());
    }
}
