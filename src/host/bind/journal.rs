//! The journal: the devices of an unfinished change, for the recovery after a kill.
//!
//! One file lists all devices of the change. The file is written before the first device is
//! changed, and removing the file commits the change. Only a process with the lock reads the file,
//! so the process that wrote it has ended. For each device the file holds the record to return to.
//! Recovery then works the same way for both commands: it undoes a killed bind and finishes a
//! killed unbind.

use std::{fs, io};

use pci::Bdf;
use serde::{Deserialize, Serialize};

use crate::bind::error::BindError;
use crate::bind::form::{FormError, address};
use crate::bind::record::Record;
use crate::bind::records::Records;
use crate::bind::{form, old_form};

/// The file's name in the records' directory.
const NAME: &str = "under-way";

/// A device of the change, and the record to return to. After a return to `None`, the device has no
/// record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "device", deserialize_with = "address")]
    pub(super) bdf: Bdf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Record>,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Journal<E> {
    devices: E,
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>, FormError> {
    if let Some(entries) = old_form::journal(&String::from_utf8_lossy(bytes)) {
        let entries = entries.into_iter();
        return Ok(entries.map(|(bdf, before)| Entry { bdf, before }).collect());
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
    /// Writes the journal with all devices of the change.
    pub(super) fn begin(&self, entries: &[Entry]) -> Result<(), BindError> {
        self.replace(NAME, &Journal { devices: entries })
    }

    /// Reads the journal. The result is empty if there is no journal.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) fn begun(&self) -> Result<Vec<Entry>, BindError> {
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

    /// Removes the journal: the change is complete or undone.
    pub(super) fn end(&self) -> Result<(), BindError> {
        self.discard(NAME)
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
            bdf,
            before: Some(before.clone()).filter(|_| bdf == bdfs[1]),
        });
        assert!(entries[1].before.is_some());
        records.begin(&entries).unwrap();
        assert_eq!(records.begun().unwrap(), entries);
        // The journal is not listed as a record.
        assert_eq!(records.all().unwrap(), []);
        records.end().unwrap();
        records.end().unwrap();
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
