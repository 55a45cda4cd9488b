//! Carries plans out, and takes them back.
//!
//! What a device was is in its record before its first change. Taking back is then not a list of
//! inverse steps but the same question every time: what is between the device as it is and as its
//! record says it was ([`plan::give_back`])? So a failed bind, an unbind, the end of a run and the
//! mending after a crash are one piece of code.

use std::fs;
use std::io;
use std::path::PathBuf;

use tracing::{debug, warn};

use super::Host;
use super::driver::Driver;
use super::error::BindError;
use super::facts::{Facts, unreadable, virtual_functions};
use super::plan::{self, Step, Target};
use super::record::{Node, Record};
use super::user::User;
use crate::pci::Bdf;
use crate::sys::process::Process;

/// Loads a driver, if it is not there.
pub(super) fn load(host: &Host, driver: &Driver) -> Result<(), BindError> {
    let dir = host.driver_path(&driver.name);
    if dir.exists() {
        return Ok(());
    }
    debug!("modprobe {}", driver.module);
    let outcome = host.kernel.load(&driver.module).and_then(|()| {
        let there = dir.exists();
        there
            .then_some(())
            .ok_or_else(|| io::Error::other("it was loaded, and the driver is not there"))
    });
    outcome.map_err(|source| BindError::NoDriver {
        module: driver.module.clone(),
        source,
    })
}

fn write(host: &Host, path: PathBuf, text: &str) -> Result<(), BindError> {
    debug!("echo {} > {}", text.trim(), path.display());
    host.kernel
        .write(&path, text)
        .map_err(|source| BindError::Write {
            path,
            text: text.trim().to_owned(),
            source,
        })
}

fn driver_of(host: &Host, bdf: Bdf) -> Result<Option<String>, BindError> {
    let device = host.sysfs.device(bdf);
    let device = device.map_err(unreadable(format!("PCI device {bdf}")))?;
    Ok(device.and_then(|d| d.driver))
}

/// A device must have this driver now: a write that starts a probe does not always tell how it went.
fn check_taken(host: &Host, bdf: Bdf, wanted: &str) -> Result<(), BindError> {
    let has = driver_of(host, bdf)?;
    if has.as_deref() == Some(wanted) {
        return Ok(());
    }
    Err(BindError::NotTaken {
        bdf,
        wanted: wanted.to_owned(),
        has,
    })
}

/// One step on a device that is being given back, or on one that is taken and needs no record more.
fn carry_out(host: &Host, step: &Step) -> Result<(), BindError> {
    let device = |bdf: &Bdf, name: &str| host.sysfs.device_path(*bdf).join(name);
    match step {
        Step::Load(driver) => load(host, driver),
        Step::Override { bdf, to } => {
            // A line without a text removes the override.
            let text = format!("{}\n", to.as_deref().unwrap_or_default());
            write(host, device(bdf, "driver_override"), &text)
        }
        Step::Unbind { bdf, driver } => {
            let path = host.driver_path(driver).join("unbind");
            write(host, path, &bdf.to_string())
        }
        Step::Probe { bdf, wanted } => {
            write(
                host,
                host.sysfs.path("bus/pci/drivers_probe"),
                &bdf.to_string(),
            )?;
            wanted
                .as_ref()
                .map_or(Ok(()), |w| check_taken(host, *bdf, w))
        }
        Step::Bind { bdf, driver } => {
            // A driver that was just loaded has looked for devices itself.
            if driver_of(host, *bdf)?.as_ref() == Some(driver) {
                return Ok(());
            }
            let path = host.driver_path(driver).join("bind");
            write(host, path, &bdf.to_string())?;
            check_taken(host, *bdf, driver)
        }
        Step::Autoprobe { bdf, on } => {
            let text = if *on { "1" } else { "0" };
            write(host, device(bdf, "sriov_drivers_autoprobe"), text)
        }
        Step::Functions { bdf, count } => {
            write(host, device(bdf, "sriov_numvfs"), &count.to_string())
        }
        Step::Own {
            bdf,
            target,
            uid,
            gid,
        } => match node(host, *bdf, target) {
            Some(path) if path.exists() => {
                debug!("chown {uid} {}", path.display());
                let outcome = host.kernel.chown(&path, *uid, *gid);
                outcome.map_err(|source| BindError::Own { path, source })
            }
            // With its device gone from VFIO there is no node to take away.
            _ => Ok(()),
        },
        Step::TakeFunctions { .. } => Ok(()),
    }
}

/// Where a node is; `None` when the device has none.
fn node(host: &Host, bdf: Bdf, target: &Target) -> Option<PathBuf> {
    match target {
        Target::Group(group) => Some(host.places.dev.join("vfio").join(group.to_string())),
        Target::Device(_) => {
            let dir = host.sysfs.device_path(bdf).join("vfio-dev");
            let name = fs::read_dir(dir).ok()?.next()?.ok()?.file_name();
            Some(host.places.dev.join("vfio/devices").join(name))
        }
        Target::Path(path) => Some(path.clone()),
    }
}

/// A change under way: devices that are taken one after the other, all of them or none.
pub(super) struct Taking<'a> {
    host: &'a Host,
    /// The run that it is for.
    owner: Option<Process>,
    /// Who gets the nodes.
    user: Option<&'a User>,
    /// Each record as it was and as it is.
    taken: Vec<(Option<Record>, Record)>,
}

impl<'a> Taking<'a> {
    pub(super) fn new(host: &'a Host, owner: Option<Process>, user: Option<&'a User>) -> Self {
        Self {
            host,
            owner,
            user,
            taken: Vec::new(),
        }
    }

    /// What was changed, for the account of it.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.taken.iter().map(|(_, record)| record)
    }

    /// Gives a device to a driver, and its nodes to the user.
    pub(super) fn take(
        &mut self,
        facts: &Facts,
        driver: &Driver,
        along: Option<Bdf>,
    ) -> Result<(), BindError> {
        let before = self.host.records.load(facts.bdf())?;
        let mut record = fresh(facts, before);
        record.bound = Some(driver.name.clone());
        record.along = along;
        record.owner = self.owner;
        self.begin(None, record)?;
        self.run(plan::take(facts, driver))?;
        self.hand_over(facts)
    }

    /// Gives the nodes of a device that is bound already to the user.
    pub(super) fn keep(&mut self, facts: &Facts) -> Result<(), BindError> {
        let before = self.host.records.load(facts.bdf())?;
        let record = before.clone().map_or_else(
            || Record {
                bound: facts.device.driver.clone(),
                ..fresh(facts, None)
            },
            |record| Record {
                owner: None,
                ..record
            },
        );
        self.begin(before, record)?;
        self.hand_over(facts)
    }

    /// Makes virtual functions and takes them.
    pub(super) fn make_functions(&mut self, facts: &Facts, count: u32) -> Result<(), BindError> {
        let before = self.host.records.load(facts.bdf())?;
        let record = Record {
            functions: Some(count),
            autoprobe: facts.functions.is_some_and(|f| f.autoprobe),
            ..before.clone().unwrap_or_else(|| fresh(facts, None))
        };
        self.begin(before, record)?;
        self.run(plan::make_functions(facts, count))
    }

    /// From here on the device can be given back.
    fn begin(&mut self, before: Option<Record>, record: Record) -> Result<(), BindError> {
        self.host.records.save(&record)?;
        self.taken.push((before, record));
        Ok(())
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<(), BindError> {
        for step in steps {
            match step {
                Step::TakeFunctions { bdf } => self.take_functions(bdf)?,
                step => carry_out(self.host, &step)?,
            }
        }
        Ok(())
    }

    fn take_functions(&mut self, physical: Bdf) -> Result<(), BindError> {
        for bdf in virtual_functions(&self.host.sysfs, physical) {
            let facts = Facts::read(&self.host.sysfs, bdf)?.ok_or(BindError::NoDevice(bdf))?;
            let driver = self.host.driver_for(&facts)?;
            self.take(&facts, &driver, Some(physical))?;
        }
        Ok(())
    }

    fn hand_over(&mut self, facts: &Facts) -> Result<(), BindError> {
        let (Some(user), Some((_, record))) = (self.user, self.taken.last_mut()) else {
            return Ok(());
        };
        record.user = Some(user.uid);
        let mut found = false;
        for step in plan::own(facts.bdf(), facts.device.group, user) {
            let Step::Own { bdf, target, .. } = &step else {
                continue;
            };
            let Some(path) = node(self.host, *bdf, target) else {
                continue;
            };
            let Ok((uid, gid)) = self.host.kernel.owner(&path) else {
                continue;
            };
            found = true;
            if uid != user.uid {
                record.nodes.push(Node { path, uid, gid });
                self.host.records.save(record)?;
                carry_out(self.host, &step)?;
            }
        }
        self.host.records.save(record)?;
        if found {
            return Ok(());
        }
        let group = facts.device.group.map_or(String::new(), |g| g.to_string());
        Err(BindError::Own {
            path: self.host.places.dev.join("vfio").join(group),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Makes everything what it was, the last first.
    pub(super) fn undo(self, cause: BindError) -> BindError {
        let mut left = Vec::new();
        let any = !self.taken.is_empty();
        for (before, record) in self.taken.into_iter().rev() {
            let outcome = match before {
                None => give_back(self.host, record.bdf),
                Some(before) => keep_only(self.host, before, record),
            };
            left.extend(outcome.err());
        }
        if !any {
            return cause;
        }
        BindError::Undone {
            cause: Box::new(cause),
            left,
        }
    }
}

/// Takes back what a record has more than the one before it.
fn keep_only(host: &Host, before: Record, now: Record) -> Result<(), BindError> {
    let difference = Record {
        nodes: now
            .nodes
            .into_iter()
            .filter(|n| !before.nodes.contains(n))
            .collect(),
        functions: now.functions.filter(|_| before.functions.is_none()),
        bound: None,
        ..before.clone()
    };
    put_back(host, &difference)?;
    host.records.save(&before)
}

/// What a device is, as a record. A record that is there already is of a bind that was broken off:
/// what it says of the time before is true, and what is seen may not be.
fn fresh(facts: &Facts, broken_off: Option<Record>) -> Record {
    let mut record = Record {
        bdf: facts.bdf(),
        modalias: facts.modalias.clone(),
        group: facts.device.group,
        driver: facts.device.driver.clone(),
        module: facts.module.clone(),
        driver_override: facts.driver_override.clone(),
        bound: None,
        along: None,
        owner: None,
        user: None,
        nodes: Vec::new(),
        functions: None,
        autoprobe: false,
    };
    if let Some(old) = broken_off.filter(|old| old.modalias == facts.modalias) {
        if record.driver.is_none() {
            record.driver = old.driver;
            record.module = old.module;
        }
        if record.driver_override == old.bound {
            record.driver_override = old.driver_override;
        }
        record.functions = old.functions;
        record.autoprobe = old.autoprobe;
    }
    record
}

/// Makes a device what its record says it was, and forgets the record.
pub(super) fn give_back(host: &Host, bdf: Bdf) -> Result<(), BindError> {
    let Some(record) = host.records.load(bdf)? else {
        return Ok(());
    };
    let record = hand_on(host, record)?;
    put_back(host, &record)?;
    host.records.remove(record.bdf)
}

fn put_back(host: &Host, record: &Record) -> Result<(), BindError> {
    let bdf = record.bdf;
    let Some(now) = Facts::read(&host.sysfs, bdf)?.filter(|now| now.modalias == record.modalias)
    else {
        warn!("PCI device {bdf} is gone, or another is in its place: it is left as it is");
        return Ok(());
    };
    for step in steps_back(host, record, &now) {
        carry_out(host, &step)?;
    }
    Ok(())
}

/// The plan to give a device back.
pub(super) fn steps_back(host: &Host, record: &Record, now: &Facts) -> Vec<Step> {
    let had = record.driver.as_ref();
    let loaded = had.is_none_or(|name| host.driver_path(name).exists());
    plan::give_back(record, now, loaded)
}

/// A group's node stays with its user as long as another device of the group is bound for the same:
/// that one's record takes it on.
fn hand_on(host: &Host, mut record: Record) -> Result<Record, BindError> {
    let (Some(user), Some(group)) = (record.user, record.group) else {
        return Ok(record);
    };
    let heir = host.records.all()?.into_iter().find(|other| {
        other.bdf != record.bdf && other.group == Some(group) && other.user == Some(user)
    });
    let Some(mut heir) = heir else {
        return Ok(record);
    };
    let path = host.places.dev.join("vfio").join(group.to_string());
    let (shared, own): (Vec<_>, Vec<_>) = record.nodes.into_iter().partition(|n| n.path == path);
    record.nodes = own;
    if !shared.is_empty() {
        heir.nodes.extend(shared);
        host.records.save(&heir)?;
    }
    Ok(record)
}

/// Gives a device of which there is no record to whatever driver wants it.
pub(super) fn let_go(host: &Host, now: &Facts) -> Result<(), BindError> {
    for step in plan::let_go(now) {
        carry_out(host, &step)?;
    }
    Ok(())
}
