//! What a device was before it was bound: one file a device under /run/mini-vmm, there for any later
//! process to give the device back by.
//!
//! A record is written before the device's first change, so whatever dies in between leaves enough to
//! mend it. It is replaced as a whole: a reader sees the old one or the new one. Records live where
//! they vanish with the devices' state, at the next boot.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pci::Bdf;
use vmm::sys::process;
use vmm::sys::process::Process;

use crate::bind::error::BindError;
use crate::bind::facts::Facts;

/// The first line of each.
pub(super) const MAGIC: &str = "mini-vmm record 1";
/// How long another command may take: a driver that lets go of a device can need seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who owned a node before a user got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node under /dev/vfio.
    pub path: PathBuf,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What a device was, and what was done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which device.
    pub bdf: Bdf,
    /// Its identity, as its attribute `modalias` has it: another device may come to the same place.
    pub modalias: String,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// The driver that it had.
    pub driver: Option<String>,
    /// That driver's module, should it have to be loaded again.
    pub module: Option<String>,
    /// The driver_override that it had.
    pub driver_override: Option<String>,
    /// The VFIO driver that it got; none when it keeps its own.
    pub bound: Option<String>,
    /// The device that it was bound along with: it goes back with that one.
    pub along: Option<Bdf>,
    /// The run that it is for: it goes back at that run's end.
    pub owner: Option<Process>,
    /// The user that got its nodes.
    pub user: Option<u32>,
    /// The nodes that changed hands.
    pub nodes: Vec<Node>,
    /// How many virtual functions were made of it.
    pub functions: Option<u32>,
    /// Whether the host's drivers took new virtual functions before; not so while some are made here.
    pub autoprobe: bool,
}

impl Record {
    /// Whether it is of this device, and not of another that was in its place before.
    pub fn is_of(&self, device: &Facts) -> bool {
        self.bdf == device.bdf() && self.modalias == device.modalias
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("{key} {value}\n"));
            }
        };
        add("modalias", Some(self.modalias.clone()));
        add("group", self.group.map(|g| g.to_string()));
        add("driver", self.driver.clone());
        add("module", self.module.clone());
        add("override", self.driver_override.clone());
        add("bound", self.bound.clone());
        add("along", self.along.map(|b| b.to_string()));
        add(
            "owner",
            self.owner.map(|o| format!("{} {}", o.pid, o.started)),
        );
        add("user", self.user.map(|u| u.to_string()));
        for node in &self.nodes {
            let path = node.path.display();
            add("node", Some(format!("{} {} {path}", node.uid, node.gid)));
        }
        add("functions", self.functions.map(|n| n.to_string()));
        add("autoprobe", self.autoprobe.then(|| "on".into()));
        text
    }

    /// Reads what [`Self::to_text`] wrote; `None` for anything else. Unknown lines are skipped.
    pub(super) fn parse(bdf: Bdf, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return None;
        }
        let mut record = Self {
            bdf,
            modalias: String::new(),
            group: None,
            driver: None,
            module: None,
            driver_override: None,
            bound: None,
            along: None,
            owner: None,
            user: None,
            nodes: Vec::new(),
            functions: None,
            autoprobe: false,
        };
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            let owned = || Some(value.to_owned());
            match key {
                "modalias" => record.modalias = value.into(),
                "group" => record.group = Some(value.parse().ok()?),
                "driver" => record.driver = owned(),
                "module" => record.module = owned(),
                "override" => record.driver_override = owned(),
                "bound" => record.bound = owned(),
                "along" => record.along = Some(value.parse().ok()?),
                "owner" => {
                    let (pid, started) = value.split_once(' ')?;
                    record.owner = Some(Process {
                        pid: pid.parse().ok()?,
                        started: started.parse().ok()?,
                    });
                }
                "user" => record.user = Some(value.parse().ok()?),
                "node" => {
                    let mut parts = value.splitn(3, ' ');
                    record.nodes.push(Node {
                        uid: parts.next()?.parse().ok()?,
                        gid: parts.next()?.parse().ok()?,
                        path: parts.next()?.into(),
                    });
                }
                "functions" => record.functions = Some(value.parse().ok()?),
                "autoprobe" => record.autoprobe = value == "on",
                _ => {}
            }
        }
        Some(record)
    }
}

/// The records of this host.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

/// Nobody else changes records or devices while this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Records {
    /// Those in a directory, which need not be there yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub(super) fn trouble(path: &Path) -> impl FnOnce(io::Error) -> BindError {
        let path = path.to_owned();
        move |source| BindError::Record { path, source }
    }

    /// Waits for whoever else is at work.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or the other takes too long.
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
        let end = Instant::now() + PATIENCE;
        while !process::try_lock(&file).map_err(Self::trouble(&path))? {
            if Instant::now() >= end {
                return Err(BindError::Busy);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Lock { _file: file })
    }

    /// A file of this directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn path(&self, bdf: Bdf) -> PathBuf {
        self.file(&bdf.to_string())
    }

    /// A device's record, if it has one.
    ///
    /// # Errors
    /// When it cannot be read, or is no record.
    pub fn load(&self, bdf: Bdf) -> Result<Option<Record>, BindError> {
        let path = self.path(bdf);
        match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let record = Record::parse(bdf, &text);
                record.map(Some).ok_or(BindError::BadRecord(path))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Self::trouble(&path)(e)),
        }
    }

    /// Every record that can be read, in order of address. The others keep nobody from the rest; see
    /// [`Self::damaged`].
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(&self) -> Result<Vec<Record>, BindError> {
        Ok(self.each()?.into_iter().flatten().collect())
    }

    /// Why each record that cannot be read cannot be.
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

    /// Puts a record in the place of the one before, if there was one.
    ///
    /// # Errors
    /// When it cannot be written; the one before is as it was.
    pub fn save(&self, record: &Record) -> Result<(), BindError> {
        self.replace(&record.bdf.to_string(), &record.to_text())
    }

    /// Puts a text in the place of a file: a reader sees all of the one or all of the other.
    pub(super) fn replace(&self, name: &str, text: &str) -> Result<(), BindError> {
        let path = self.file(name);
        let new = self.file(&format!("{name}.new"));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(Self::trouble(&path))
    }

    /// Removes a device's record; there need be none.
    ///
    /// # Errors
    /// When it is there and stays.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_sys_util::tempdir::TempDir;

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
        let bare = Record::parse("02:00.0".parse().unwrap(), &format!("{MAGIC}\n")).unwrap();
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
        ] {
            fs::write(dir.as_path().join(bdf.to_string()), text).unwrap();
            let error = records.load(bdf).unwrap_err();
            assert!(matches!(error, BindError::BadRecord(_)), "{text}: {error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("rm ") && hint.contains("host unbind 0000:01:00.0"));
            // The others are there all the same.
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

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(mini-vmm record 1\n)?(([a-z]{4,8}|owner|node|along) ?[ -~]{0,12}\n){0,6}") {
            let _ = Record::parse(record().bdf, &text);
        }
    }
}
