//! The names that clients have given to devices. A device without one has the host's name.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm::hostinfo::name::HostName;

/// The longest name.
const LONGEST: usize = 128;

/// Why a name cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, long, or unreadable in a message.
    #[error("an `id` has 1 to {LONGEST} letters, digits and characters of -_.:+")]
    Form,
    /// It is another device's.
    #[error("`{0}` is the id of another device")]
    Taken(String),
}

/// The given names, by the host's.
#[derive(Default)]
pub struct Ids(Mutex<BTreeMap<String, String>>);

impl Ids {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a device a name, unless it has one. Returns whether it is new.
    ///
    /// # Errors
    /// The name is not readable, or is another device's.
    pub fn give(&self, host: &str, id: &str) -> Result<bool, IdError> {
        let readable = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
        if id.is_empty() || id.len() > LONGEST || !id.chars().all(readable) {
            return Err(IdError::Form);
        }
        let mut ids = self.lock();
        let mut all = ids.iter();
        let given = all.any(|(other, given)| given == id && other != host);
        // A name of the host is that of its device.
        let of_host = id.parse::<HostName>().map(|name| name.to_string());
        if given || of_host.as_ref().is_ok_and(|name| name != host) {
            return Err(IdError::Taken(id.into()));
        }
        let new = of_host.is_err() && !ids.contains_key(host);
        if new {
            ids.insert(host.into(), id.into());
        }
        Ok(new)
    }

    /// Forgets the name of a device that is not the guest's any more.
    pub fn forget(&self, host: &str) {
        self.lock().remove(host);
    }

    /// The name of a device.
    pub fn of(&self, host: &str) -> String {
        self.lock().get(host).map_or(host, String::as_str).into()
    }

    /// The host's name of the device with this name, if a client has given it.
    pub fn host(&self, id: &str) -> Option<String> {
        let ids = self.lock();
        let found = ids.iter().find(|(_, given)| *given == id);
        found.map(|(host, _)| host.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_and_forgotten() {
        let ids = Ids::default();
        let (disk, card) = ("0000:01:00.0", "0000:02:00.0");
        assert_eq!(ids.give(disk, "disk-1"), Ok(true));
        assert_eq!(ids.give(disk, "disk-2"), Ok(false));
        for taken in ["disk-1", disk, "1:0.0"] {
            assert_eq!(ids.give(card, taken), Err(IdError::Taken(taken.into())));
        }
        assert_eq!(ids.give(card, card), Ok(false));
        assert_eq!((ids.of(disk), ids.of(card)), ("disk-1".into(), card.into()));
        assert_eq!(ids.host("disk-1").as_deref(), Some(disk));
        assert_eq!(ids.host(disk), None);
        ids.forget(disk);
        assert_eq!(ids.of(disk), disk);
        assert_eq!(ids.give(card, "disk-1"), Ok(true));
        for wrong in ["", "a b", "a\"", "a\n", &"x".repeat(LONGEST + 1)] {
            assert_eq!(ids.give(disk, wrong), Err(IdError::Form), "{wrong}");
        }
    }
}
