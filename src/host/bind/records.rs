//! The records of this host: one file for each device in /run/mini-vmm. Any later process can give
//! the device back with this file.
//!
//! A record is written before the device's first change, so that a later process can recover after
//! a kill at any moment. A record is replaced as a whole: a reader sees the old one or the new one.
//! /run is a file system in RAM, so records and the state of the devices vanish together at the
//! next boot.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pci::Bdf;
use serde::Serialize;
use tracing::warn;
use vmm::sys::process;

use crate::bind::error::BindError;
use crate::bind::form::FormError;
use crate::bind::record::Record;
use crate::bind::{form, old_form};

/// The time for which a command waits for the lock before its first change. Another command gives
/// the lock away while a call of the kernel sleeps, but has it while it loads modules, and between
/// its calls.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The records of this host.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
    /// The file of the lock while this process has the lock.
    held: Arc<Mutex<Option<File>>>,
    /// [`LOCK_TIMEOUT`], or a shorter time.
    timeout: Duration,
}

/// The lock of the records and the devices; unlocked when dropped.
#[derive(Debug)]
pub struct Lock {
    held: Arc<Mutex<Option<File>>>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Records {
    /// The records in a directory, which need not exist yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            held: Arc::default(),
            timeout: LOCK_TIMEOUT,
        }
    }

    /// These records, with a lock that is waited for no longer than this.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(super) fn trouble(path: &Path) -> impl FnOnce(io::Error) -> BindError {
        let path = path.to_owned();
        move |source| BindError::Record { path, source }
    }

    /// Takes the lock, and waits while another process has the lock.
    ///
    /// # Errors
    /// The directory cannot be created or written, or the wait takes too long.
    pub fn lock(&self) -> Result<Lock, BindError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        builder
            .create(&self.dir)
            .map_err(Self::trouble(&self.dir))?;
        let path = self.dir.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).map_err(Self::trouble(&path))?;
        self.take(&file)?;
        *self.held() = Some(file);
        Ok(Lock {
            held: self.held.clone(),
        })
    }

    /// Whether a command has ever made a record on this host since it was booted.
    pub fn exist(&self) -> bool {
        self.dir.exists()
    }

    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, file: &File) -> Result<(), BindError> {
        let end = Instant::now() + self.timeout;
        while !process::try_lock(file).map_err(Self::trouble(&self.dir.join("lock")))? {
            if Instant::now() >= end {
                return Err(BindError::Busy);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Gives the lock away while a call of the kernel sleeps. The journal keeps other commands from
    /// the devices of this change.
    pub(super) fn pause(&self) {
        if let Some(file) = &*self.held() {
            process::unlock(file);
        }
    }

    /// Takes the lock again after [`Self::pause`]. There is no time limit: without the lock, the
    /// outcome of the call could not be written down, and the change could be neither continued nor
    /// undone. Another command gives the lock away at its end at the latest.
    ///
    /// # Errors
    /// The lock cannot be used.
    pub(super) fn resume(&self) -> Result<(), BindError> {
        let held = self.held();
        let Some(file) = &*held else {
            return Ok(());
        };
        loop {
            match self.take(file) {
                Err(e @ BindError::Busy) => {
                    let hint = e.hint().unwrap_or_default();
                    warn!("{e}; this change goes on after it; {hint}");
                }
                taken => return taken,
            }
        }
    }

    /// The path of a file in this directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn path(&self, bdf: Bdf) -> PathBuf {
        self.file(&bdf.to_string())
    }

    /// A device's record, if there is a record.
    ///
    /// # Errors
    /// The file cannot be read, or is not a record.
    pub fn load(&self, bdf: Bdf) -> Result<Option<Record>, BindError> {
        let path = self.path(bdf);
        match fs::read(&path) {
            Ok(bytes) => parse(bdf, &bytes).map(Some).map_err(|e| match e {
                FormError::Damaged => BindError::BadRecord(path),
                FormError::Unknown(version) => BindError::UnknownRecord { path, version },
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Self::trouble(&path)(e)),
        }
    }

    /// All records that can be read, in order of address. For the others see [`Self::damaged`].
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(&self) -> Result<Vec<Record>, BindError> {
        Ok(self.each()?.into_iter().flatten().collect())
    }

    /// An error for each record that cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn damaged(&self) -> Result<Vec<BindError>, BindError> {
        let each = self.each()?.into_iter();
        Ok(each.filter_map(Result::err).collect())
    }

    fn each(&self) -> Result<Vec<Result<Record, BindError>>, BindError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Self::trouble(&self.dir)(e)),
        };
        let mut bdfs: Vec<Bdf> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        bdfs.sort();
        let loaded = bdfs.into_iter().map(|bdf| self.load(bdf));
        Ok(loaded.filter_map(Result::transpose).collect())
    }

    /// Writes a device's record in place of an earlier record.
    ///
    /// # Errors
    /// The record cannot be written. An earlier record is unchanged.
    pub fn save(&self, record: &Record) -> Result<(), BindError> {
        self.replace(&record.bdf.to_string(), record)
    }

    /// Replaces a file as a whole: a reader sees either the complete old file or the complete new
    /// file.
    pub(super) fn replace<T: Serialize>(&self, name: &str, content: &T) -> Result<(), BindError> {
        let path = self.file(name);
        let new = self.file(&format!("{name}.new"));
        let write = || {
            let text = form::to_text(content)?;
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(Self::trouble(&path))
    }

    /// Removes a device's record, if there is one.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, bdf: Bdf) -> Result<(), BindError> {
        self.discard(&bdf.to_string())
    }

    pub(super) fn discard(&self, name: &str) -> Result<(), BindError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Self::trouble(&path)(e)),
            _ => Ok(()),
        }
    }
}

/// Parses a device's record, in the current form or in the form of version 1.
fn parse(bdf: Bdf, bytes: &[u8]) -> Result<Record, FormError> {
    if let Some(record) = old_form::record(bdf, &String::from_utf8_lossy(bytes)) {
        return Ok(record);
    }
    let record: Record = form::parse(bytes)?;
    // A file with the name of another device is not that device's record.
    let is_of = record.bdf == bdf;
    is_of.then_some(record).ok_or(FormError::Damaged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm::sys::process::Process;
    use vmm_sys_util::tempdir::TempDir;

    use super::super::record::Node;
    use super::*;

    fn record() -> Record {
        Record {
            bdf: "01:00.0".parse().unwrap(),
            modalias: "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02".into(),
            group: Some(7),
            driver: Some("nvme".into()),
            module: Some("nvme".into()),
            driver_override: None,
            bound: Some("vfio-pci".into()),
            along: Some("01:00.1".parse().unwrap()),
            owner: Some(Process {
                pid: 12,
                started: 99,
            }),
            user: Some(1000),
            nodes: vec![Node {
                path: "/dev/vfio/7".into(),
                uid: 0,
                gid: 0,
            }],
            functions: Some(4),
            autoprobe: true,
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path().join("deeper/still"));
        assert_eq!(records.all().unwrap(), []);
        let lock = records.lock().unwrap();
        let full = record();
        let bare = Record::new("02:00.0".parse().unwrap());
        records.save(&bare).unwrap();
        records.save(&full).unwrap();
        assert_eq!(records.all().unwrap(), [full.clone(), bare.clone()]);
        assert_eq!(records.load(bare.bdf).unwrap(), Some(bare.clone()));
        records.remove(full.bdf).unwrap();
        records.remove(full.bdf).unwrap();
        assert_eq!(records.load(full.bdf).unwrap(), None);
        assert_eq!(records.all().unwrap(), [bare]);
        drop(lock);
        drop(records.lock().unwrap());
    }

    #[test]
    fn one_at_a_time() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path());
        let lock = records.lock().unwrap();
        let file = File::open(dir.as_path().join("lock")).unwrap();
        assert!(!process::try_lock(&file).unwrap());
        drop(lock);
        assert!(process::try_lock(&file).unwrap());
    }

    /// A change that has begun waits as long as it must.
    #[test]
    fn a_paused_change_gets_the_lock_again() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path()).with_timeout(Duration::from_millis(10));
        let lock = records.lock().unwrap();
        let other = Records::at(dir.as_path());
        let busy = other.clone().with_timeout(Duration::ZERO);
        assert!(matches!(busy.lock(), Err(BindError::Busy)));
        records.pause();
        let theirs = other.lock().unwrap();
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(theirs);
        });
        records.resume().unwrap();
        ends.join().unwrap();
        assert!(matches!(busy.lock(), Err(BindError::Busy)));
        drop(lock);
        drop(other.lock().unwrap());
    }

    #[test]
    fn what_is_no_record_is_named() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path());
        let bdf: Bdf = "01:00.0".parse().unwrap();
        for text in [
            "",
            "driver nvme\n",
            "mini-vmm record 1\nnode 0\n",
            "mini-vmm record 1\nx\n",
            "{",
            "{}",
            "[2]",
            r#"{"version": 2}"#,
            // The record of another device.
            r#"{"version": 2, "device": "0000:02:00.0", "modalias": ""}"#,
            r#"{"version": 2, "device": "0000:01:00.0", "modalias": "", "along": "x"}"#,
            r#"{"version": 2, "device": "0000:01:00.0", "modalias": "", "owner": 1}"#,
        ] {
            fs::write(dir.as_path().join(bdf.to_string()), text).unwrap();
            let error = records.load(bdf).unwrap_err();
            assert!(matches!(error, BindError::BadRecord(_)), "{text}: {error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("rm ") && hint.contains("host unbind 0000:01:00.0"));
            // The other records can be read.
            let other = Record {
                bdf: "02:00.0".parse().unwrap(),
                ..record()
            };
            records.save(&other).unwrap();
            assert_eq!(records.all().unwrap(), [other]);
            let damaged = records.damaged().unwrap();
            assert!(
                matches!(&damaged[..], [BindError::BadRecord(_)]),
                "{damaged:?}"
            );
        }
    }

    #[test]
    fn a_record_of_another_version_is_left_alone() {
        let dir = TempDir::new().unwrap();
        let records = Records::at(dir.as_path());
        let full = record();
        let path = dir.as_path().join(full.bdf.to_string());
        records.save(&full).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for version in ["3", "1", "\"next\"", "null"] {
            let other = text.replace("\"version\": 2", &format!("\"version\": {version}"));
            assert_ne!(other, text);
            fs::write(&path, &other).unwrap();
            let error = records.load(full.bdf).unwrap_err();
            let BindError::UnknownRecord { version: found, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(found, version);
            assert!(
                error.to_string().contains(&format!("version {version}")),
                "{error}"
            );
            let hint = error.hint().unwrap();
            assert!(
                hint.contains("rm ") && hint.contains("host unbind 0000:01:00.0"),
                "{hint}"
            );
            assert_eq!(records.all().unwrap(), []);
            assert_eq!(records.damaged().unwrap().len(), 1);
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        // A field that a newer program of the same version adds is ignored.
        fs::write(&path, text.replacen('{', "{\n  \"later\": [1],", 1)).unwrap();
        assert_eq!(records.load(full.bdf).unwrap(), Some(full));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(
            text in concat!(
                r#"(\{"version": ?[0-9]{0,2})?"#,
                r#"(,"(device|along|owner|nodes|x)":[ -~]{0,12}){0,4}\}?"#
            )
        ) {
            let _ = parse(record().bdf, text.as_bytes());
        }

        #[test]
        fn any_record_is_read_as_it_was_written(
            texts in proptest::collection::vec(proptest::option::of("\\PC{0,8}"), 5),
            numbers in proptest::collection::vec(proptest::option::of(any::<u32>()), 3),
            nodes in proptest::collection::vec((any::<u32>(), "[ -~]{1,9}"), 0..3),
            autoprobe in any::<bool>(),
        ) {
            let written = Record {
                modalias: texts[0].clone().unwrap_or_default(),
                driver: texts[1].clone(),
                module: texts[2].clone(),
                driver_override: texts[3].clone(),
                bound: texts[4].clone(),
                group: numbers[0],
                user: numbers[1],
                functions: numbers[2],
                nodes: nodes
                    .iter()
                    .map(|(id, path)| Node { path: path.into(), uid: *id, gid: !id })
                    .collect(),
                autoprobe,
                ..record()
            };
            let text = form::to_text(&written).unwrap();
            prop_assert_eq!(parse(written.bdf, text.as_bytes()), Ok(written));
        }
    }
}
