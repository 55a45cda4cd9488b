//! What a change that is under way has begun, for whoever comes after a kill in the middle of it.
//!
//! One file for all of the change's devices: it is there before the first of them is touched, and its
//! removal is the moment at which the whole change holds. Whoever finds it holds the lock, so that the
//! one who wrote it is no more. A broken-off bind is taken back by it, and a broken-off unbind is
//! brought to its end: both are the same question, what the device's record was to be.

use std::{fs, io};

use pci::Bdf;

use crate::bind::error::BindError;
use crate::bind::record::{Record, Records};

/// The file's name in the records' directory.
const NAME: &str = "under-way";
/// Its first line.
const MAGIC: &str = "mini-vmm change 1";

/// A device of the change, and its record from before; `None` if it had none, and is to have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) bdf: Bdf,
    pub(super) before: Option<Record>,
}

fn to_text(entries: &[Entry]) -> String {
    let mut text = format!("{MAGIC}\n");
    for Entry { bdf, before } in entries {
        text.push_str(&format!("device {bdf}\n"));
        text.push_str(&before.as_ref().map_or(String::new(), Record::to_text));
    }
    text
}

/// No line of a record begins with the word that begins an entry.
fn parse(text: &str) -> Option<Vec<Entry>> {
    let rest = text.strip_prefix(MAGIC)?.strip_prefix('\n')?;
    let mut devices: Vec<(Bdf, String)> = Vec::new();
    for line in rest.lines() {
        match (line.strip_prefix("device "), devices.last_mut()) {
            (Some(bdf), _) => devices.push((bdf.parse().ok()?, String::new())),
            (None, Some((_, record))) => record.push_str(&format!("{line}\n")),
            (None, None) => return None,
        }
    }
    let entries = devices.into_iter().map(|(bdf, text)| {
        let before = match text.as_str() {
            "" => None,
            text => Some(Record::parse(bdf, text)?),
        };
        Some(Entry { bdf, before })
    });
    entries.collect()
}

impl Records {
    /// Notes what the change has begun; all of it, each time.
    pub(super) fn begin(&self, entries: &[Entry]) -> Result<(), BindError> {
        self.replace(NAME, &to_text(entries))
    }

    /// What a change has begun and not ended.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn begun(&self) -> Result<Vec<Entry>, BindError> {
        let path = self.file(NAME);
        match fs::read(&path) {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)).ok_or(BindError::BadJournal(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Self::trouble(&path)(e)),
        }
    }

    /// The change holds, or is taken back.
    pub(super) fn end(&self) -> Result<(), BindError> {
        self.discard(NAME)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn what_is_begun_is_found() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path());
        assert_eq!(records.begun().unwrap(), []);
        let bdfs: [Bdf; 3] = ["01:00.0", "02:00.0", "03:00.0"].map(|bdf| bdf.parse().unwrap());
        let text = "mini-vmm record 1\nmodalias pci:v1\ndriver nvme\nnode 0 0 /dev/vfio/1\n";
        let entries = bdfs.map(|bdf| Entry {
            bdf,
            before: Record::parse(bdf, text).filter(|_| bdf == bdfs[1]),
        });
        assert!(entries[1].before.is_some());
        records.begin(&entries).unwrap();
        assert_eq!(records.begun().unwrap(), entries);
        // It is no record.
        assert_eq!(records.all().unwrap(), []);
        records.end().unwrap();
        records.end().unwrap();
        assert_eq!(records.begun().unwrap(), []);
        for damaged in [
            "",
            "mini-vmm change 1\nx\n",
            "mini-vmm change 1\ndevice 0\n",
        ] {
            fs::write(dir.as_path().join(NAME), damaged).unwrap();
            let error = records.begun().unwrap_err();
            assert!(matches!(error, BindError::BadJournal(_)), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(mini-vmm change 1\n)?((device 0000:01:00.0|mini-vmm record 1|owner 1|[ -~]{0,12})\n){0,6}") {
            let _ = parse(&text);
        }
    }
}
