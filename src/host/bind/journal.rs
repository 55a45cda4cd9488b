//! The journal: the devices of an unfinished change, for the recovery after a kill.
//!
//! One file lists the devices of all unfinished changes. An entry is written before its device is
//! changed, and removing a command's entries commits the command's change. For each device the file
//! holds the record to return to. Recovery then works the same way for both commands: it undoes a
//! killed bind and finishes a killed unbind.
//!
//! A command gives the lock away while a call of the kernel sleeps. Each entry therefore names its
//! command and the call, and other commands leave the device alone while one of the two goes on.

use std::{fs, io};

use pci::Bdf;
use serde::{Deserialize, Serialize};
use vmm::sys::process::Process;

use crate::bind::error::BindError;
use crate::bind::form::{FormError, address, run, write_run};
use crate::bind::record::Record;
use crate::bind::records::Records;
use crate::bind::under_way::UnderWay;
use crate::bind::{form, old_form};

/// The file's name in the records' directory.
const NAME: &str = "under-way";

/// A device of a change, and the record to return to. After a return to `None`, the device has no
/// record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The device.
    #[serde(rename = "device", deserialize_with = "address")]
    pub bdf: Bdf,
    /// The record to return to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Record>,
    /// The command that changes the device; `None` in a journal of an earlier program, whose
    /// commands had the lock until they ended.
    #[serde(
        default,
        deserialize_with = "run",
        serialize_with = "write_run",
        skip_serializing_if = "Option::is_none"
    )]
    pub command: Option<Process>,
    /// The last call of the kernel for the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_way: Option<UnderWay>,
}

impl Entry {
    /// The entry of a device that nothing was done with yet.
    pub(super) fn new(bdf: Bdf, before: Option<Record>) -> Self {
        Self {
            bdf,
            before,
            command: None,
            under_way: None,
        }
    }

    /// Whether the command that wrote the entry goes on. An earlier change of this process has
    /// ended.
    pub fn has_command(&self) -> bool {
        self.command
            .is_some_and(|command| command.pid != std::process::id() && command.lives())
    }

    /// Whether the device must be left alone: another command changes it, or a call goes on.
    pub fn blocks(&self) -> bool {
        self.has_command() || self.is_blocked()
    }

    /// Whether a call for the device goes on, or was lost in the kernel.
    pub(super) fn is_blocked(&self) -> bool {
        self.under_way.as_ref().is_some_and(UnderWay::blocks)
    }
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Journal<E> {
    devices: E,
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>, FormError> {
    if let Some(entries) = old_form::journal(&String::from_utf8_lossy(bytes)) {
        let entries = entries.into_iter();
        return Ok(entries
            .map(|(bdf, before)| Entry::new(bdf, before))
            .collect());
    }
    let Journal { devices } = form::parse::<Journal<Vec<Entry>>>(bytes)?;
    // Recovery writes the record of the entry's device, so no entry may hold another's.
    let is_of = |entry: &Entry| entry.before.as_ref().is_none_or(|b| b.bdf == entry.bdf);
    devices
        .iter()
        .all(is_of)
        .then_some(devices)
        .ok_or(FormError::Damaged)
}

impl Records {
    /// Writes the entries of all devices of a change of this process.
    pub(super) fn begin(&self, entries: &[Entry]) -> Result<(), BindError> {
        let command = Process::this().ok();
        let mut all = self.readable()?;
        let calls: Vec<_> = all
            .iter()
            .filter_map(|e| Some((e.bdf, e.under_way.clone()?)))
            .collect();
        all.retain(|old| entries.iter().all(|new| new.bdf != old.bdf));
        all.extend(entries.iter().map(|new| {
            Entry {
                command,
                under_way: calls
                    .iter()
                    .find(|(bdf, _)| *bdf == new.bdf)
                    .map(|(_, u)| u.clone()),
                ..new.clone()
            }
        }));
        self.write_journal(&all)
    }

    /// Writes the state of a call. A device that has no entry gets one for the time of the call.
    pub(super) fn set_call(&self, bdf: Bdf, under_way: UnderWay) -> Result<(), BindError> {
        let mut all = match self.readable() {
            // A run gives its own devices back in spite of it. The file stays as it is.
            Err(BindError::UnknownJournal { .. }) => return Ok(()),
            all => all?,
        };
        let at = all.iter().position(|entry| entry.bdf == bdf);
        let at = at.unwrap_or_else(|| {
            all.push(Entry::new(bdf, None));
            all.len() - 1
        });
        if let Some(entry) = all.get_mut(at) {
            entry.command = Process::this().ok();
            entry.under_way = Some(under_way);
        }
        self.write_journal(&all)
    }

    /// Reads the journal. The result is empty if there is no journal.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn begun(&self) -> Result<Vec<Entry>, BindError> {
        let path = self.file(NAME);
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|e| match e {
                FormError::Damaged => BindError::BadJournal(path),
                FormError::Unknown(version) => BindError::UnknownJournal { path, version },
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Self::trouble(&path)(e)),
        }
    }

    /// The entries, without those of a damaged journal, which recovery has reported.
    pub(super) fn readable(&self) -> Result<Vec<Entry>, BindError> {
        match self.begun() {
            Err(BindError::BadJournal(_)) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The devices for which a call goes on or was lost in the kernel. A journal that cannot be
    /// read names none: the commands that change devices report it.
    pub fn busy(&self) -> Vec<Bdf> {
        let entries = self.begun().unwrap_or_default().into_iter();
        entries
            .filter(Entry::is_blocked)
            .map(|entry| entry.bdf)
            .collect()
    }

    /// A call for the device that goes on or was lost in the kernel.
    pub(super) fn call_of(&self, bdf: Bdf) -> Result<Option<UnderWay>, BindError> {
        let mut entries = match self.readable() {
            Err(BindError::UnknownJournal { .. }) => return Ok(None),
            entries => entries?.into_iter(),
        };
        let entry = entries.find(|entry| entry.bdf == bdf);
        Ok(entry.and_then(|e| e.under_way).filter(UnderWay::blocks))
    }

    /// Removes the entries of these devices: the change is complete or undone. A device whose call
    /// goes on keeps its entry, without a command: this process may be a run that goes on for days
    /// and does nothing more about the device.
    pub(super) fn end(&self, bdfs: &[Bdf]) -> Result<(), BindError> {
        let mut all = match self.readable() {
            Err(BindError::UnknownJournal { .. }) => return Ok(()),
            all => all?,
        };
        all.retain(|entry| entry.is_blocked() || !bdfs.contains(&entry.bdf));
        self.write_without_command(all, bdfs)
    }

    /// Leaves the entries of these devices to the next command: a call for the device, or for
    /// another one on which it depends, goes on.
    pub(super) fn leave(&self, bdfs: &[Bdf]) -> Result<(), BindError> {
        match self.readable() {
            Err(BindError::UnknownJournal { .. }) => Ok(()),
            all => self.write_without_command(all?, bdfs),
        }
    }

    fn write_without_command(&self, mut all: Vec<Entry>, bdfs: &[Bdf]) -> Result<(), BindError> {
        for entry in all.iter_mut().filter(|entry| bdfs.contains(&entry.bdf)) {
            entry.command = None;
        }
        self.write_journal(&all)
    }

    /// Writes the whole journal; without entries there is no file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_journal(&self, entries: &[Entry]) -> Result<(), BindError> {
        if entries.is_empty() {
            return self.discard(NAME);
        }
        self.replace(NAME, &Journal { devices: entries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_sys_util::tempdir::TempDir;

    use super::super::record::Node;
    use super::*;

    #[test]
    fn what_is_begun_is_found() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path());
        assert_eq!(records.begun().unwrap(), []);
        let bdfs: [Bdf; 3] = ["01:00.0", "02:00.0", "03:00.0"].map(|bdf| bdf.parse().unwrap());
        let before = Record {
            modalias: "pci:v1".into(),
            driver: Some("nvme".into()),
            nodes: vec![Node {
                path: "/dev/vfio/1".into(),
                uid: 0,
                gid: 0,
            }],
            ..Record::new(bdfs[1])
        };
        let entries = bdfs.map(|bdf| Entry {
            command: Process::this().ok(),
            ..Entry::new(bdf, Some(before.clone()).filter(|_| bdf == bdfs[1]))
        });
        assert!(entries[1].before.is_some());
        records.begin(&entries).unwrap();
        assert_eq!(records.begun().unwrap(), entries);
        // The journal is not listed as a record.
        assert_eq!(records.all().unwrap(), []);
        records.end(&bdfs).unwrap();
        records.end(&bdfs).unwrap();
        assert_eq!(records.begun().unwrap(), []);
        for damaged in [
            "",
            "mini-vmm change 1\nx\n",
            "mini-vmm change 1\ndevice 0\n",
            "{}",
            r#"{"version": 2}"#,
            r#"{"version": 2, "devices": [{"device": "0"}]}"#,
            // The record of another device.
            r#"{"version": 2, "devices": [{"device": "0000:01:00.0",
                "before": {"device": "0000:02:00.0", "modalias": ""}}]}"#,
        ] {
            fs::write(dir.as_path().join(NAME), damaged).unwrap();
            let error = records.begun().unwrap_err();
            assert!(matches!(error, BindError::BadJournal(_)), "{error}");
        }
        let newer = r#"{"version": 3, "devices": []}"#;
        fs::write(dir.as_path().join(NAME), newer).unwrap();
        let error = records.begun().unwrap_err();
        assert!(matches!(error, BindError::UnknownJournal { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_answered(
            text in concat!(
                r#"(\{"version":2,"devices":\[)?"#,
                r#"(\{"device":"(01:00.0|x)",?[ -~]{0,9}\},?){0,3}(\]\})?"#
            )
        ) {
            let _ = parse(text.as_bytes());
        }
    }
}
