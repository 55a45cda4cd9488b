//! Devices that are taken one after the other, all of them or none.

use std::io;

use super::Host;
use super::apply::{carry_out, give_back, node, put_back};
use super::driver::Driver;
use super::error::BindError;
use super::facts::{Facts, virtual_functions};
use super::plan::{self, Step};
use super::record::{Node, Record};
use super::user::User;
use crate::pci::Bdf;
use crate::sys::process::Process;

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
