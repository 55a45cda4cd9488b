//! Records and the journal in /run/mini-vmm, with any content: what is read is written and read
//! again as the same, a file is one device's alone, and a damaged one is named and hides no other.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use host::bind::{BindError, Record, Records};
use libfuzzer_sys::fuzz_target;
use pci::Bdf;
use vmm_sys_util::tempdir::TempDir;

const DEVICE: &str = "0000:01:00.0";
const OTHER: &str = "0000:02:00.0";
const JOURNAL: &str = "under-way";

/// The directory of all inputs of this process, in RAM where there is /dev/shm.
fn dir() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let shm = Path::new("/dev/shm/mini-vmm-fuzz-");
        let dir = TempDir::new_with_prefix(shm).or_else(|_| TempDir::new());
        dir.expect("a directory")
    });
    dir.as_path()
}

/// The reason why a file cannot be used names the file and has a remedy.
fn check(error: &BindError, name: &str) {
    assert!(error.to_string().contains(name), "{error}");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
}

/// A record of any bytes.
fn record(bytes: &[u8]) {
    let records = Records::at(dir());
    let (device, other): (Bdf, Bdf) = (DEVICE.parse().unwrap(), OTHER.parse().unwrap());
    fs::write(dir().join(DEVICE), bytes).unwrap();
    let text = r#"{"version": 2, "device": "0000:02:00.0", "modalias": "pci:other"}"#;
    fs::write(dir().join(OTHER), text).unwrap();
    let all: Vec<Record> = records.all().unwrap();
    assert!(
        all.iter().any(|r| r.bdf == other),
        "another record is hidden"
    );
    match records.load(device) {
        Ok(read) => {
            let read = read.expect("the file is there");
            assert_eq!(read.bdf, device, "the record is another device's");
            assert_eq!((all.len(), records.damaged().unwrap().len()), (2, 0));
            records.save(&read).unwrap();
            assert_eq!(
                records.load(device).unwrap(),
                Some(read),
                "what was saved is read"
            );
        }
        Err(e) => {
            check(&e, DEVICE);
            assert_eq!((all.len(), records.damaged().unwrap().len()), (1, 1));
            // It is left as it is.
            assert_eq!(fs::read(dir().join(DEVICE)).unwrap(), bytes);
        }
    }
    records.remove(device).unwrap();
    records.remove(other).unwrap();
}

/// A journal of any bytes.
fn journal(bytes: &[u8]) {
    let records = Records::at(dir());
    let path = dir().join(JOURNAL);
    fs::write(&path, bytes).unwrap();
    match records.begun() {
        Ok(entries) => {
            for entry in &entries {
                let before = entry.before.as_ref();
                assert!(
                    before.is_none_or(|record| record.bdf == entry.bdf),
                    "an entry returns another device"
                );
                let _ = (entry.blocks(), entry.has_command());
                if let Some(call) = &entry.under_way {
                    assert!(!call.describe(entry.bdf).is_empty());
                    assert!(!call.remedy(entry.bdf).is_empty());
                }
            }
            records.write_journal(&entries).unwrap();
            assert_eq!(
                records.begun().unwrap(),
                entries,
                "what was written is read"
            );
            let busy = records.busy();
            assert!(
                busy.iter()
                    .all(|bdf| entries.iter().any(|entry| entry.bdf == *bdf))
            );
        }
        Err(e) => {
            check(&e, JOURNAL);
            assert!(records.busy().is_empty());
        }
    }
    let _ = fs::remove_file(&path);
}

// The first byte chooses; the rest is text that a person can read in the corpus.
fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((b'j', rest)) => journal(rest),
        Some((b'r', rest)) => record(rest),
        _ => {}
    }
});
