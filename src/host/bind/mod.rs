//! `host bind` and `host unbind`: devices go from the host's drivers to VFIO's, and back.
//!
//! ```text
//! addresses ─► facts ─► checks ─► plan ─► record ─► writes to sysfs
//!                                   │        └────────► give back: unbind, a failure, the end of
//!                                   └─► --dry-run                  a run, a crash
//! ```
//!
//! Whoever changes anything holds the records' lock, and first mends what a killed run has left.

mod apply;
mod driver;
mod error;
mod facts;
#[cfg(test)]
mod fake;
mod kernel;
mod plan;
mod record;
mod select;
mod taking;
#[cfg(test)]
mod tests;
mod unbind;
mod user;

use std::fs;
use std::path::PathBuf;

use tracing::{debug, warn};

use super::in_use::Places;
use super::sysfs::Sysfs;
use crate::observe::report::sentence;
use crate::pci::Bdf;
use crate::sys::process::Process;
use apply::give_back;
use driver::Driver;
use facts::Facts;
use plan::Step;
use select::{check_free, named, whole};
use taking::Taking;
use user::User;

pub use error::BindError;
pub use kernel::{Kernel, Running};
pub use record::{Record, Records};
pub use unbind::{Outcome, UnbindRequest, release_run, unbind};

/// The host, or one made up for a test.
pub struct Host {
    /// /sys.
    pub sysfs: Sysfs,
    /// /dev, /proc and /lib/modules.
    pub places: Places,
    /// What was bound.
    pub records: Records,
    /// Who carries changes out.
    pub kernel: Box<dyn Kernel>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            sysfs: Sysfs::default(),
            places: Places::default(),
            records: Records::at("/run/mini-vmm"),
            kernel: Box::new(Running),
        }
    }
}

impl Host {
    /// The directory that a driver has or would have.
    fn driver_path(&self, driver: &str) -> PathBuf {
        self.sysfs.path("bus/pci/drivers").join(driver)
    }

    /// The VFIO driver for a device, loaded.
    fn driver_for(&self, facts: &Facts) -> Result<Driver, BindError> {
        let driver = self.choose(facts);
        match apply::load(self, &driver) {
            Err(e) if driver.is_variant() => {
                warn!("{}: {e}; by vfio-pci instead", facts.bdf());
                let generic = Driver::generic();
                apply::load(self, &generic).map(|()| generic)
            }
            outcome => outcome.map(|()| driver),
        }
    }

    fn choose(&self, facts: &Facts) -> Driver {
        let release = fs::read_to_string(self.places.proc.join("sys/kernel/osrelease"));
        let release = release.unwrap_or_default();
        let aliases = self.places.modules.join(release.trim());
        let aliases = fs::read(aliases.join("modules.alias")).unwrap_or_default();
        driver::choose(&facts.modalias, &String::from_utf8_lossy(&aliases))
    }
}

/// What `host bind` is asked for.
#[derive(Clone, Debug, Default)]
pub struct BindRequest {
    /// The devices, as the user wrote them.
    pub addresses: Vec<String>,
    /// All of their IOMMU groups.
    pub group: bool,
    /// Devices in use too.
    pub force: bool,
    /// Who may open the nodes.
    pub user: Option<String>,
    /// Make so many virtual functions of each device and bind them instead.
    pub functions: Option<u32>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// The run that the devices are for.
    pub owner: Option<Process>,
}

/// Binds devices; all of them or none. Returns what there is to say, a line each.
///
/// A device that VFIO has already stays as it is. Of a group whose other devices have host drivers,
/// one alone is refused: the host would lose it, and no guest could use it.
///
/// # Errors
/// What is wrong, or what failed; then everything is as it was, or the error says what is not.
pub fn bind(host: &Host, request: &BindRequest) -> Result<Vec<String>, BindError> {
    let user = request.user.as_deref().map(User::find).transpose()?;
    let lock = if request.dry_run {
        None
    } else {
        let lock = host.records.lock()?;
        mend(host)?;
        Some(lock)
    };
    let named = named(host, &request.addresses)?;
    let lines = match request.functions {
        Some(count) => make_functions(host, request, &named, count, user.as_ref()),
        None => bind_devices(host, request, named, user.as_ref()),
    }?;
    drop(lock);
    Ok(lines)
}

/// A driver that lets go of a physical function takes its virtual functions away, whoever uses them.
fn check_functions(facts: &Facts) -> Result<(), BindError> {
    let made = facts.functions.map_or(0, |functions| functions.made);
    if made == 0 || facts.device.is_vfio() {
        return Ok(());
    }
    Err(BindError::WouldLoseFunctions {
        bdf: facts.bdf(),
        made,
    })
}

fn bind_devices(
    host: &Host,
    request: &BindRequest,
    named: Vec<Facts>,
    user: Option<&User>,
) -> Result<Vec<String>, BindError> {
    let wanted = whole(host, named, request.group)?;
    if !request.force {
        for device in &wanted {
            check_free(host, &device.facts.device)?;
            check_functions(&device.facts)?;
        }
    }
    if request.dry_run {
        return Ok(wanted
            .iter()
            .flat_map(|w| dry_run(host, &w.facts, user))
            .collect());
    }
    // Modules are loaded before anything is changed: that one may fail, and hurts nobody.
    let drivers: Result<Vec<_>, _> = wanted.iter().map(|w| host.driver_for(&w.facts)).collect();
    let drivers = drivers?;
    let mut lines = Vec::new();
    let mut taking = Taking::new(host, request.owner, user);
    for (device, driver) in wanted.iter().zip(&drivers) {
        let facts = &device.facts;
        let outcome = if !facts.device.is_vfio() {
            taking.take(facts, driver, device.along)
        } else if user.is_some() {
            taking.keep(facts)
        } else {
            Ok(())
        };
        if let Err(e) = outcome {
            return Err(taking.undo(e));
        }
        lines.push(line(facts, driver));
    }
    lines.extend(
        user.into_iter()
            .flat_map(|user| about_user(host, &taking, user)),
    );
    Ok(lines)
}

/// What has become of a device.
fn line(before: &Facts, driver: &Driver) -> String {
    let bdf = before.bdf();
    let group = before
        .device
        .group
        .map_or(String::new(), |g| format!(", IOMMU group {g}"));
    match before.device.driver.as_deref() {
        Some(has) if before.device.is_vfio() => format!("{bdf}: bound to {has} already{group}"),
        has => format!(
            "{bdf}: {} -> {}{group}",
            has.unwrap_or("no driver"),
            driver.name
        ),
    }
}

fn about_user(host: &Host, taking: &Taking<'_>, user: &User) -> Vec<String> {
    let mut nodes: Vec<_> = taking
        .records()
        .flat_map(|r| &r.nodes)
        .map(|n| n.path.display().to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    let mut lines = Vec::new();
    if !nodes.is_empty() {
        lines.push(format!("{} may open {}", user.name, nodes.join(", ")));
    }
    lines.extend(
        user.needs(&host.places.dev)
            .into_iter()
            .map(|n| format!("note: {n}")),
    );
    lines
}

fn dry_run(host: &Host, facts: &Facts, user: Option<&User>) -> Vec<String> {
    let mut steps = Vec::new();
    if !facts.device.is_vfio() {
        let driver = host.choose(facts);
        if !host.driver_path(&driver.name).exists() {
            steps.push(Step::Load(driver.clone()));
        }
        steps.extend(plan::take(facts, &driver));
    }
    steps.extend(
        user.into_iter()
            .flat_map(|u| plan::own(facts.bdf(), facts.device.group, u)),
    );
    steps.iter().map(Step::to_string).collect()
}

fn make_functions(
    host: &Host,
    request: &BindRequest,
    named: &[Facts],
    count: u32,
    user: Option<&User>,
) -> Result<Vec<String>, BindError> {
    for facts in named {
        let bdf = facts.bdf();
        match facts.functions {
            None => return Err(BindError::NoFunctions(bdf)),
            Some(f) if f.made > 0 => return Err(BindError::HasFunctions { bdf, made: f.made }),
            Some(f) if count > f.most => {
                return Err(BindError::TooManyFunctions {
                    bdf,
                    most: f.most,
                    asked: count,
                });
            }
            Some(_) => {}
        }
    }
    if request.dry_run {
        let steps = named
            .iter()
            .flat_map(|facts| plan::make_functions(facts, count));
        return Ok(steps.map(|s| s.to_string()).collect());
    }
    let mut taking = Taking::new(host, request.owner, user);
    for facts in named {
        if let Err(e) = taking.make_functions(facts, count) {
            return Err(taking.undo(e));
        }
    }
    let lines = taking.records().map(|record| {
        let bdf = record.bdf;
        match (record.functions, &record.bound, record.group) {
            (Some(count), ..) => format!("{bdf}: {count} virtual functions"),
            (None, Some(driver), Some(group)) => {
                format!("{bdf}: no driver -> {driver}, IOMMU group {group}")
            }
            (None, ..) => format!("{bdf}: bound"),
        }
    });
    let mut lines: Vec<_> = lines.collect();
    lines.extend(
        user.into_iter()
            .flat_map(|user| about_user(host, &taking, user)),
    );
    Ok(lines)
}

/// Gives back what a killed run has left, and forgets devices that are gone. Returns what went back.
fn mend(host: &Host) -> Result<Vec<Bdf>, BindError> {
    let mut mended = Vec::new();
    for record in host.records.all()? {
        let bdf = record.bdf;
        let now = Facts::read(&host.sysfs, bdf)?;
        let Some(now) = now.filter(|now| now.modalias == record.modalias) else {
            debug!("PCI device {bdf} is gone, or another is in its place");
            host.records.remove(bdf)?;
            continue;
        };
        // A run that this process cannot see, from inside a container, lives all the same.
        let abandoned = record.owner.is_some_and(|owner| !owner.lives());
        if abandoned && unbind::holders_of(host, &now).is_empty() {
            match give_back(host, bdf) {
                Ok(()) => {
                    warn!("a run that was killed had PCI device {bdf}: it went back");
                    mended.push(bdf);
                }
                Err(e) => warn!("{}", sentence(&e)),
            }
        }
    }
    Ok(mended)
}
