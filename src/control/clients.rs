//! Which devices the clients of the socket name, as the process that opens devices sees it
//! ([`vmm::broker`]).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use api::witness::Door;
use vmm::broker::{Admission, Asked, Device};

use crate::control::device::AddDevice;
use crate::control::routes::ADD_DEVICE;

/// The clients of a run.
#[derive(Debug)]
pub struct Clients(Door);

impl Clients {
    /// The clients that come by this door.
    pub fn by(door: Door) -> Self {
        Self(door)
    }
}

impl Admission for Clients {
    fn asked(&self, connection: &File) -> io::Result<Asked> {
        let (request, uid) = self.0.request(connection.as_fd())?;
        if (&*request.method, &*request.path) != ("PUT", ADD_DEVICE) {
            let devices = Vec::new();
            return Ok(Asked { uid, devices });
        }
        // What is no body of ours is refused by the route.
        let body = AddDevice::parse(&request.body).map_err(io::Error::other)?;
        // A function without an address comes by its open node, which is shown by itself.
        let functions = body.all().filter_map(|function| function.config(None).ok());
        let devices = functions.filter_map(|config| Device::of(&config)).collect();
        Ok(Asked { uid, devices })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use api::witness::Address;
    use vmm::broker::Right;
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    /// What a client names by a request.
    fn named(text: &str) -> Vec<(String, bool)> {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let (ours, _) = listener.accept().unwrap();
        client.write_all(text.as_bytes()).unwrap();
        let clients = Clients::by(Door {
            address: Address::at(&path).unwrap(),
            user: rustix::process::geteuid().as_raw(),
            server: 1,
        });
        let connection = File::from(OwnedFd::from(ours));
        let asked = clients.asked(&connection);
        let devices = asked.map(|asked| asked.devices).unwrap_or_default();
        let pair = |device: Device| (device.name.to_string(), device.right == Right::Bind);
        devices.into_iter().map(pair).collect()
    }

    fn put(path: &str, body: &str) -> String {
        let length = body.len();
        format!("PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    #[test]
    fn an_add_names_its_functions_and_nothing_else_names_any() {
        let body = r#"{"path": "/sys/bus/pci/devices/0000:01:00.0", "managed": true,
            "functions": [{"path": "01:00.1"}]}"#;
        let both = [
            ("0000:01:00.0".into(), true),
            ("0000:01:00.1".into(), false),
        ];
        assert_eq!(named(&put(ADD_DEVICE, body)), both);
        for text in [
            put("/api/v1/vm.remove-device", r#"{"id": "01:00.0"}"#),
            put("/api/v1/vm.remove-device", body),
            put(ADD_DEVICE, r#"{"path": "lab"}"#),
            put(ADD_DEVICE, r#"{"path": "01:00.0", "unknown": 1}"#),
            put(ADD_DEVICE, "{}"),
            put(ADD_DEVICE, body).replacen("PUT", "GET", 1),
            // Not whole yet.
            put(ADD_DEVICE, body)
                .replacen('}', "", 1)
                .trim_end_matches('}')
                .into(),
            // The first request counts.
            put("/api/v1/vm.pause", "") + &put(ADD_DEVICE, body),
        ] {
            assert_eq!(named(&text), [], "{text}");
        }
    }
}
