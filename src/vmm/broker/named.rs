//! The devices of a run.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::device::DeviceConfig;
use crate::hostinfo::name::{HostName, parse_address};
use crate::sys::packets::Packets;

/// The most devices of a list. A guest has fewer.
const MOST: usize = 4096;

/// What may be done with a device for the run. Each right has those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Those of its nodes are opened that the run's user may open (`--run-as`).
    AsUser,
    /// Its nodes are opened.
    Open,
    /// It is also bound (`managed=on`).
    Bind,
}

/// A device that may be opened for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The host's name.
    pub name: HostName,
    /// What may be done with it.
    pub right: Right,
}

impl Device {
    /// The device of a flag or of a request; `None` if the address is none.
    pub fn of(config: &DeviceConfig) -> Option<Self> {
        let name = parse_address(&config.address).ok()?;
        let right = match config.managed {
            true => Right::Bind,
            false => Right::Open,
        };
        Some(Self { name, right })
    }

    fn encode(self) -> Vec<u8> {
        [&[self.right as u8], self.name.to_string().as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (right, name) = bytes.split_first()?;
        let name = str::from_utf8(name).ok()?.parse().ok()?;
        let all = [Right::AsUser, Right::Open, Right::Bind];
        let right = all.into_iter().find(|known| *known as u8 == *right)?;
        Some(Self { name, right })
    }
}

/// The list.
#[derive(Debug)]
pub struct Named {
    /// `None`: any device, for a run that is not confined.
    devices: Option<Mutex<Vec<Device>>>,
    /// Where the other process of the run tells which devices have come.
    news: Option<Packets>,
}

impl Named {
    /// Any device: the run is not confined.
    pub fn any() -> Self {
        Self {
            devices: None,
            news: None,
        }
    }

    /// These devices, and no other.
    pub fn only(devices: impl IntoIterator<Item = Device>) -> Self {
        Self {
            devices: Some(Mutex::new(devices.into_iter().collect())),
            news: None,
        }
    }

    /// Learns by `news` what the list of another process gets ([`tell`]).
    #[must_use]
    pub fn hearing(self, news: Packets) -> Self {
        let news = Some(news);
        Self { news, ..self }
    }

    /// The socket of the news, which a fork keeps.
    pub fn news(&self) -> Option<&Packets> {
        self.news.as_ref()
    }

    /// Adds a device. Returns whether that is new.
    pub fn add(&self, device: Device) -> bool {
        let Some(mut devices) = self.list() else {
            return false;
        };
        let full = devices.len() >= MOST;
        let known = devices.iter_mut().find(|known| known.name == device.name);
        match known {
            Some(known) if known.right >= device.right => false,
            Some(known) => {
                known.right = device.right;
                true
            }
            None if full => false,
            None => {
                devices.push(device);
                true
            }
        }
    }

    /// Whether a device is the run's.
    pub fn has(&self, name: HostName) -> bool {
        self.allows(name, Right::AsUser)
    }

    /// Whether a device may be bound for the run.
    pub fn is_managed(&self, name: HostName) -> bool {
        self.allows(name, Right::Bind)
    }

    /// Whether the run has a right to a device.
    pub fn allows(&self, name: HostName, right: Right) -> bool {
        let mut all = self.all().into_iter();
        self.is_any() || all.any(|device| device.name == name && device.right >= right)
    }

    /// Whether the run is not confined.
    pub fn is_any(&self) -> bool {
        self.devices.is_none()
    }

    /// All devices of the list.
    pub(super) fn all(&self) -> Vec<Device> {
        self.hear();
        self.list().map_or_else(Vec::new, |devices| devices.clone())
    }

    fn hear(&self) {
        while let Some(news) = &self.news
            && let Ok(Some(packet)) = news.receive_now()
        {
            Device::decode(&packet.bytes).map(|device| self.add(device));
        }
    }

    fn list(&self) -> Option<MutexGuard<'_, Vec<Device>>> {
        let devices = self.devices.as_ref()?;
        Some(devices.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells the other process of the run about a device.
///
/// # Errors
/// The process has ended.
pub(super) fn tell(news: &Packets, device: Device) -> io::Result<()> {
    news.send(&device.encode(), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, right: Right) -> Device {
        let name = name.parse().unwrap();
        Device { name, right }
    }

    #[test]
    fn the_list_has_what_was_named_and_added() {
        let [disk, net] = ["0000:01:00.0", "0000:02:00.0"].map(|name| name.parse().unwrap());
        let named = Named::only([device("01:00.0", Right::Open)]);
        assert!(named.has(disk) && !named.has(net) && !named.is_managed(disk));
        assert!(!named.add(device("01:00.0", Right::Open)));
        assert!(named.add(device("01:00.0", Right::Bind)) && named.is_managed(disk));
        // A right stays.
        for right in [Right::AsUser, Right::Open] {
            assert!(!named.add(device("01:00.0", right)) && named.is_managed(disk));
        }
        assert!(named.add(device("02:00.0", Right::AsUser)));
        assert!(named.has(net) && !named.allows(net, Right::Open));
        assert!(named.add(device("02:00.0", Right::Open)));
        assert!(named.allows(net, Right::Open) && !named.is_managed(net));
        for number in 0..MOST {
            named.add(device(&format!("{number:04x}:05:00.0"), Right::Bind));
        }
        assert_eq!(named.all().len(), MOST);
        let any = Named::any();
        assert!(any.has(net) && any.is_managed(net) && any.all().is_empty());
    }

    #[test]
    fn the_other_process_learns_what_came() {
        let (ours, theirs) = Packets::pair().unwrap();
        let named = Named::only([]).hearing(theirs);
        let all = [
            device("01:00.0", Right::Bind),
            device("02:00.0", Right::Open),
            device("03:00.0", Right::AsUser),
        ];
        let [disk, net, users] = all;
        assert!(!named.has(disk.name));
        for device in all {
            tell(&ours, device).unwrap();
        }
        ours.send(&[1, 0xff], &[]).unwrap();
        ours.send(b"\x090000:04:00.0", &[]).unwrap();
        assert!(named.is_managed(disk.name) && named.has(net.name));
        assert!(named.has(users.name) && !named.allows(users.name, Right::Open));
        assert_eq!(named.all(), all);
        // The other one has ended.
        drop(ours);
        assert!(named.has(disk.name));
        let uuid = device("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", Right::Bind);
        assert_eq!(Device::decode(&uuid.encode()), Some(uuid));
    }
}
