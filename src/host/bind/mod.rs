//! `host bind` and `host unbind`: devices go from the host's drivers to VFIO's, and back.
//!
//! ```text
//! addresses ─► facts ─► checks ─► plan ─► record ─► writes to sysfs
//!                                   │        └────────► give back: unbind, a failure, the end of
//!                                   └─► --dry-run                  a run, a crash
//! ```
//!
//! Whoever changes anything holds the records' lock, and first mends what a killed command or run has
//! left.

mod account;
mod apply;
mod driver;
mod error;
mod facts;
#[cfg(test)]
mod fake;
mod journal;
mod kernel;
mod mend;
mod plan;
mod record;
mod released;
mod select;
mod taking;
#[cfg(test)]
mod tests;
mod unbind;
mod user;

use std::fs;
use std::path::PathBuf;

use driver::Driver;
pub use error::BindError;
use facts::{Facts, unreadable};
pub use kernel::{Kernel, Running};
use mend::{begin, check_owner};
use pci::Bdf;
pub use record::{Record, Records};
use select::{Wanted, check_free, named, whole};
use taking::Taking;
use tracing::warn;
pub use unbind::{Outcome, UnbindRequest, release_run, unbind};
use user::User;
use vmm::hostinfo::sysfs::Sysfs;
use vmm::sys::process::Process;

use crate::in_use::Places;

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
    fn driver_for(&self, bdf: Bdf, modalias: &str) -> Result<Driver, BindError> {
        let driver = self.choose(modalias);
        match apply::load(self, &driver) {
            Err(e) if driver.is_variant() => {
                warn!("{bdf}: {e}; by vfio-pci instead");
                let generic = Driver::generic();
                apply::load(self, &generic).map(|()| generic)
            }
            outcome => outcome.map(|()| driver),
        }
    }

    fn choose(&self, modalias: &str) -> Driver {
        let release = fs::read_to_string(self.places.proc.join("sys/kernel/osrelease"));
        let release = release.unwrap_or_default();
        let aliases = self.places.modules.join(release.trim());
        let aliases = fs::read(aliases.join("modules.alias")).unwrap_or_default();
        driver::choose(modalias, &String::from_utf8_lossy(&aliases))
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
        Some(begin(host)?)
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

/// A driver that lets go of a device takes the mediated devices that it has made of it away, too
/// (Documentation/driver-api/vfio-mediated-device.rst).
fn check_mediated(host: &Host, facts: &Facts) -> Result<(), BindError> {
    if facts.device.is_vfio() {
        return Ok(());
    }
    let bdf = facts.bdf();
    let found = host.sysfs.mediated_of(&facts.device.path);
    let uuids = found.map_err(unreadable(format!("the mediated devices of {bdf}")))?;
    if uuids.is_empty() {
        return Ok(());
    }
    Err(BindError::WouldLoseMediated { bdf, uuids })
}

fn bind_devices(
    host: &Host,
    request: &BindRequest,
    named: Vec<Facts>,
    user: Option<&User>,
) -> Result<Vec<String>, BindError> {
    let wanted = whole(host, named, request.group)?;
    for device in &wanted {
        check_owner(host, &device.facts, request.owner)?;
        if !request.force {
            check_free(host, &device.facts.device, request.owner.is_some())?;
        }
        // What a failure could not bring back is not for --force.
        check_functions(&device.facts)?;
        check_mediated(host, &device.facts)?;
    }
    if request.dry_run {
        return Ok(dry_run(host, &wanted, user));
    }
    // Modules are loaded before anything is changed: that one may fail, and hurts nobody.
    let drivers = wanted
        .iter()
        .map(|w| host.driver_for(w.facts.bdf(), &w.facts.modalias));
    let drivers = drivers.collect::<Result<Vec<_>, _>>()?;
    let mut taking = Taking::new(host, request.owner, user);
    for (device, driver) in wanted.iter().zip(&drivers) {
        let facts = &device.facts;
        let outcome = match user {
            _ if !facts.device.is_vfio() => taking.take(facts, driver, device.along),
            Some(user) => taking.keep(facts, user),
            None => Ok(()),
        };
        if let Err(e) = outcome {
            return Err(taking.undo(e));
        }
    }
    let records = taking.end()?;
    let devices = wanted.iter().zip(&drivers);
    let mut lines: Vec<_> = devices.map(|(w, d)| account::taken(&w.facts, d)).collect();
    lines.extend(user.map_or(Vec::new(), |user| account::about_user(host, &records, user)));
    Ok(lines)
}

/// The same plans, as commands.
fn dry_run(host: &Host, wanted: &[Wanted], user: Option<&User>) -> Vec<String> {
    let (mut drivers, mut steps) = (Vec::new(), Vec::new());
    for facts in wanted.iter().map(|w| &w.facts) {
        if !facts.device.is_vfio() {
            let driver = host.choose(&facts.modalias);
            steps.extend(plan::take(facts, &driver, user));
            drivers.push(driver);
        } else if let Some(user) = user {
            let own = plan::own(facts, user).into_iter();
            steps.extend(own.filter(|step| apply::changes_hands(host, step).is_some()));
        }
    }
    account::dry_run(host, &drivers, &steps)
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
            Some(_) => check_owner(host, facts, request.owner)?,
        }
    }
    if request.dry_run {
        let drivers = named.iter().map(|f| host.choose(&f.functions_modalias()));
        let drivers: Vec<_> = drivers.collect();
        let steps = named
            .iter()
            .zip(&drivers)
            .flat_map(|(facts, driver)| plan::make_functions(facts, count, driver, user));
        let steps: Vec<_> = steps.collect();
        return Ok(account::dry_run(host, &drivers, &steps));
    }
    let drivers = named
        .iter()
        .map(|facts| host.driver_for(facts.bdf(), &facts.functions_modalias()));
    let drivers = drivers.collect::<Result<Vec<_>, _>>()?;
    let mut taking = Taking::new(host, request.owner, user);
    for (facts, driver) in named.iter().zip(&drivers) {
        if let Err(e) = taking.make_functions(facts, count, driver) {
            return Err(taking.undo(e));
        }
    }
    let records = taking.end()?;
    let mut lines: Vec<_> = records.iter().map(account::function).collect();
    lines.extend(user.map_or(Vec::new(), |user| account::about_user(host, &records, user)));
    Ok(lines)
}
