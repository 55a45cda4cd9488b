//! A transaction binds devices one after the other. If one bind fails, all devices are given back.
//!
//! The journal names all devices of a transaction before the first change: while a call for one of
//! them sleeps, the lock is free, and no other command may take another one.

use std::io;

use pci::Bdf;
use vmm::sys::process::Process;

use crate::bind::apply::{carry_out, changes_hands, driver_for, node_of, restore};
use crate::bind::driver::Driver;
use crate::bind::error::BindError;
use crate::bind::facts::{Facts, virtual_functions};
use crate::bind::host::Host;
use crate::bind::journal::Entry;
use crate::bind::plan;
use crate::bind::plan::Step;
use crate::bind::record::{Node, Record};
use crate::bind::select::with_group;
use crate::bind::user::User;

/// A transaction that has begun.
pub(super) struct Transaction<'a> {
    host: &'a Host,
    /// The run for which the devices are bound.
    owner: Option<Process>,
    /// The user who gets the nodes.
    user: Option<&'a User>,
    /// The devices that the transaction will change.
    claimed: Vec<Bdf>,
    /// For each device: its record before the transaction, and its record now.
    changed: Vec<(Option<Record>, Record)>,
}

impl<'a> Transaction<'a> {
    /// Begins a transaction, and claims the devices that it will change.
    ///
    /// # Errors
    /// The journal cannot be written. No device is claimed then.
    pub(super) fn begin(
        host: &'a Host,
        owner: Option<Process>,
        user: Option<&'a User>,
        devices: impl IntoIterator<Item = Bdf>,
    ) -> Result<Self, BindError> {
        let claimed: Vec<Bdf> = devices.into_iter().collect();
        // Nothing is to be undone for a device with its present record.
        let claim = |bdf: &Bdf| Ok(Entry::new(*bdf, host.records.load(*bdf)?));
        let entries = claimed.iter().map(claim);
        let entries = entries.collect::<Result<Vec<_>, BindError>>()?;
        if !entries.is_empty() {
            host.records.begin(&entries)?;
        }
        Ok(Self {
            host,
            owner,
            user,
            claimed,
            changed: Vec::new(),
        })
    }

    /// Binds a device to a driver, and gives its nodes to the user.
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
        record.user = self.user.map(|u| u.uid).or(record.user);
        self.note(None, record)?;
        self.run(plan::take(facts, driver, self.user))?;
        self.check_handed_over(facts)
    }

    /// Gives the nodes of a device that is already bound to the user.
    pub(super) fn keep(&mut self, facts: &Facts, user: &User) -> Result<(), BindError> {
        let before = self.host.records.load(facts.bdf())?;
        let record = before.clone().unwrap_or_else(|| Record {
            bound: facts.device.driver.clone(),
            ..fresh(facts, None)
        });
        let record = Record {
            user: Some(user.uid),
            owner: None,
            ..record
        };
        self.note(before, record)?;
        self.run(plan::own(facts, user))?;
        self.check_handed_over(facts)
    }

    /// Makes virtual functions and binds them. The device has no virtual functions now, so the
    /// functions in an earlier record no longer exist.
    pub(super) fn make_functions(
        &mut self,
        facts: &Facts,
        count: u32,
        driver: &Driver,
    ) -> Result<(), BindError> {
        let before = self.host.records.load(facts.bdf())?;
        let earlier = before.as_ref().is_some_and(|record| record.autoprobe);
        let before = before
            .map(|record| Record {
                functions: None,
                autoprobe: false,
                ..record
            })
            .filter(|record| record.bound.is_some());
        let record = Record {
            functions: Some(count),
            autoprobe: earlier || facts.functions.is_some_and(|f| f.autoprobe),
            ..before.clone().unwrap_or_else(|| fresh(facts, None))
        };
        self.note(before, record)?;
        self.run(plan::make_functions(facts, count, driver, self.user))
    }

    /// Writes the journal and the record. From this point on the device can be given back, also
    /// after a kill.
    fn note(&mut self, before: Option<Record>, record: Record) -> Result<(), BindError> {
        self.changed.push((before, record));
        let entries = self.changed.iter();
        let entries = entries.map(|(before, record)| Entry::new(record.bdf, before.clone()));
        let entries: Vec<_> = entries.collect();
        self.host.records.begin(&entries)?;
        self.save()
    }

    fn save(&self) -> Result<(), BindError> {
        let last = self.changed.last();
        last.map_or(Ok(()), |(_, record)| self.host.records.save(record))
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<(), BindError> {
        for step in steps {
            match step {
                Step::TakeFunctions { bdf, .. } => self.take_functions(bdf)?,
                Step::Own { .. } => self.own(&step)?,
                step => carry_out(self.host, &step)?,
            }
        }
        Ok(())
    }

    fn take_functions(&mut self, physical: Bdf) -> Result<(), BindError> {
        for bdf in virtual_functions(&self.host.sysfs, physical) {
            let facts = Facts::read(&self.host.sysfs, bdf)?.ok_or(BindError::NoDevice(bdf))?;
            let driver = driver_for(self.host, bdf, &facts.modalias)?;
            self.take(&facts, &driver, Some(physical))?;
        }
        self.check_groups(physical)
    }

    /// Checks the groups of the new functions. The groups are known only after the functions exist.
    /// Without ACS on the path, a function is in the group of the physical function. The host
    /// driver of the physical function then keeps guests from using the group (PCI Express 6.0,
    /// 6.12).
    fn check_groups(&self, physical: Bdf) -> Result<(), BindError> {
        for bdf in virtual_functions(&self.host.sysfs, physical) {
            let facts = Facts::read(&self.host.sysfs, bdf)?.ok_or(BindError::NoDevice(bdf))?;
            with_group(self.host, vec![facts], false).map_err(|cause| {
                BindError::FunctionsShared {
                    physical,
                    cause: Box::new(cause),
                }
            })?;
        }
        Ok(())
    }

    /// Changes the owner of a node. The record with the earlier owner is saved first.
    fn own(&mut self, step: &Step) -> Result<(), BindError> {
        let (Some(path), Some((_, record))) =
            (changes_hands(self.host, step), self.changed.last_mut())
        else {
            return Ok(());
        };
        let owner = self.host.kernel.owner(&path);
        let (uid, gid) = owner.map_err(|source| BindError::Own {
            path: path.clone(),
            source,
        })?;
        record.nodes.push(Node { path, uid, gid });
        self.save()?;
        carry_out(self.host, step)
    }

    /// Checks that the device has a node for the user: the group's node, its own node, or both,
    /// depending on the kernel.
    fn check_handed_over(&self, facts: &Facts) -> Result<(), BindError> {
        let Some(user) = self.user else {
            return Ok(());
        };
        let nodes = plan::own(facts, user);
        let mut nodes = nodes.iter().filter_map(|step| node_of(self.host, step));
        if nodes.any(|path| path.exists()) {
            return Ok(());
        }
        let group = facts.device.group.map_or(String::new(), |g| g.to_string());
        Err(BindError::Own {
            path: self.host.paths.dev.join("vfio").join(group),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Removes the journal, which commits the transaction. If that fails, undoes all changes.
    pub(super) fn end(self) -> Result<Vec<Record>, BindError> {
        let bdfs = self.changed.iter().map(|(_, record)| record.bdf);
        let bdfs: Vec<_> = bdfs.chain(self.claimed.iter().copied()).collect();
        match self.host.records.end(&bdfs) {
            Ok(()) => Ok(self.changed.into_iter().map(|(_, record)| record).collect()),
            Err(e) => Err(self.undo(e)),
        }
    }

    /// Undoes all changes, the last device first.
    pub(super) fn undo(self, cause: BindError) -> BindError {
        let begun: Vec<_> = self.changed.iter().map(|(_, record)| record.bdf).collect();
        let untouched = self.claimed.iter().filter(|bdf| !begun.contains(bdf));
        let mut done: Vec<_> = untouched.copied().collect();
        if begun.is_empty() {
            // The cause says more.
            let _ = self.host.records.end(&done);
            return cause;
        }
        let alone = begun.len() == 1;
        let (mut left, mut asleep) = (Vec::new(), Vec::new());
        for (before, record) in self.changed.into_iter().rev() {
            let outcome = restore(self.host, record.bdf, before);
            // A device for which a call goes on is put right by a later command.
            match outcome {
                Err(BindError::UnderWay(..)) => asleep.push(record.bdf),
                _ => done.push(record.bdf),
            }
            // The cause says it already.
            left.extend(outcome.err().filter(|e| !e.is_same_call(&cause)));
        }
        left.extend(self.host.records.end(&done).err());
        left.extend(self.host.records.leave(&asleep).err());
        if alone && left.is_empty() && matches!(cause, BindError::UnderWay(..)) {
            return cause;
        }
        BindError::Undone {
            cause: Box::new(cause),
            left,
        }
    }
}

/// Makes the record of a device. If a record exists already, an earlier bind was not undone
/// completely. The device may then be in the state that the bind left, so the earlier record's
/// values are kept.
fn fresh(facts: &Facts, earlier: Option<Record>) -> Record {
    let mut record = Record::of(facts);
    if let Some(old) = earlier.filter(|old| old.is_of(facts)) {
        if record.driver.is_none() {
            record.driver = old.driver;
            record.module = old.module;
        }
        if record.driver_override == old.bound || record.driver_override.is_none() {
            record.driver_override = old.driver_override;
        }
        record.user = old.user;
        // A device without its VFIO driver has no nodes. The names in the earlier record belong to
        // other devices.
        if facts.device.driver.is_some() && facts.device.driver == old.bound {
            record.nodes = old.nodes;
        }
        record.functions = old.functions;
        record.autoprobe = old.autoprobe;
    }
    record
}
