//! What will be done, to which device, and for how long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cross::which;
use crate::error::{Error, Result};
use crate::guest;
use crate::kernel::image::Image;
use crate::kernel::modules::Lists;
use crate::session::destroy::Destroy;
use crate::session::device::{Device, Unit};
use crate::session::link::{End, Link};
use crate::session::settings::Settings;
use crate::session::{cpus, ways};
use crate::stats::stopping::Stopping;
use crate::subjects;
use crate::subjects::list::{Kind, Subject, subjects};
use crate::subjects::peer::{Choice, Peer};
use crate::subjects::program::Program;
use crate::work::task::{Engine, FunctionId, Target, Task, port_works};
use crate::work::uring;
use vmm::config::memory;

/// An estimate of what a guest's turn takes besides its work: the drivers' changes, a reset of the
/// device, the guest's start and end.
const GUEST_TURN: Duration = Duration::from_secs(6);

/// An estimate of what the starts of a guest that measure its life take.
const LIFE: Duration = Duration::from_secs(8);

/// The same for a turn of the host, with the disk's rest.
const HOST_TURN: Duration = Duration::from_secs(3);

/// What will be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The device.
    pub device: Device,
    /// The subjects.
    pub subjects: Vec<Subject>,
    /// The user's permission to write to the disk, if there is one.
    pub destroy: Option<Destroy>,
    /// The link of a network port.
    pub link: Option<Link>,
    /// The work of each turn.
    pub task: Task,
    /// The host's CPUs that all subjects have.
    pub cpus: Vec<usize>,
    /// The guest's memory.
    pub memory: String,
    /// The guest's kernel.
    pub kernel: Image,
    /// Further words of its command line.
    pub cmdline: String,
    /// The directory of its modules.
    pub lists: PathBuf,
    /// The modules that the guest loads, in order.
    pub modules: Vec<PathBuf>,
    /// Whether each turn also measures a first instruction, a reset and a reboot.
    pub life: bool,
    /// The program that measures the host's work, too, if it is installed.
    pub checker: Option<Program>,
    /// When the run ends.
    pub stopping: Stopping,
    /// The host's kernel.
    pub release: String,
}

impl Plan {
    /// Finds all that a run needs. Nothing is changed.
    ///
    /// # Errors
    /// Something is missing, or the device may not be measured.
    pub fn make(settings: &Settings) -> Result<Self> {
        check_words(&settings.guest_cmdline)?;
        let device = Device::find(&settings.address)?;
        device.check_unused()?;
        device.check_host(&settings.memory)?;
        let programs = match settings.vmms.as_slice() {
            [] => vec![Program::find()?],
            paths => paths
                .iter()
                .map(|p| Program::named(p))
                .collect::<Result<_>>()?,
        };
        let peers = peers(&settings.peers)?;
        let memory = memory::parse(&settings.memory).map_err(|e| Error::new(e.to_string()))?;
        for (peer, _) in &peers {
            subjects::memory::check(*peer, &memory)?;
        }
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy().into_owned();
        let of_peers = peers.iter().map(|(peer, _)| *peer);
        ways::check(Path::new("/"), &device, of_peers, &release)?;
        let link = link(&device, settings)?;
        let destroy = settings.destroy.as_deref();
        let destroy = destroy.map(|serial| Destroy::check(&device, serial, settings.wipe));
        let destroy = destroy.transpose()?;
        let kernel = match &settings.guest_kernel {
            Some(path) => Image::named(path, &release)?,
            None => Image::of_host(Path::new("/"), &release)?,
        };
        let lists = Path::new("/lib/modules").join(&kernel.release);
        let cpus = choose_cpus(settings, &device, link.as_ref())?;
        let serial = destroy.as_ref().map(|destroy| destroy.serial.clone());
        let task = task(settings, (&device, link.as_ref()), cpus.len(), serial)?;
        let plan = Self {
            subjects: subjects(&programs, &settings.changes, &peers),
            task,
            destroy,
            cpus,
            link,
            memory: settings.memory.clone(),
            modules: modules(&Lists::read(&lists)?, &device, &peers),
            cmdline: settings.guest_cmdline.clone(),
            stopping: settings.stopping(),
            kernel,
            lists,
            release,
            device,
            checker: None,
            life: false,
        };
        let tool = which::tool_of(&plan.task.target);
        let checker = tool.and_then(|tool| Program::in_path(tool, "--version").ok());
        // A short run of a disk or port has time for its work alone.
        let life = plan.task.target == Target::Function || !settings.quick;
        Ok(Self {
            checker,
            life,
            ..plan
        })
    }

    /// An estimate of a round's time.
    pub fn round(&self) -> Duration {
        let each = Duration::from_millis(self.task.warm_up_ms + self.task.measure_ms);
        let work = each * u32::try_from(self.task.works.len()).unwrap_or(u32::MAX);
        let life = if self.life { LIFE } else { Duration::ZERO };
        let guest = match self.task.works.is_empty() {
            true => life,
            false => work + GUEST_TURN + life,
        };
        let trial = |subject: &Subject| match subject.kind {
            Kind::Host => work + HOST_TURN + life,
            Kind::MiniVmm { .. } | Kind::Peer { .. } => guest,
        };
        self.subjects.iter().map(trial).sum()
    }

    /// An estimate of the time of all rounds.
    pub fn at_most(&self) -> Duration {
        let rounds = u32::try_from(self.stopping.most).unwrap_or(u32::MAX);
        (self.round() * rounds).min(self.stopping.time)
    }

    /// An estimate of the time of the pass that counts.
    pub(super) fn counting(&self) -> Duration {
        if self.task.works.is_empty() {
            return Duration::ZERO;
        }
        let each = Duration::from_millis(self.task.warm_up_ms + self.task.measure_ms);
        let windows = u32::try_from(self.task.works.len() + 1).unwrap_or(u32::MAX);
        let guests = self.subjects.iter().filter(|subject| {
            let counts = match &subject.kind {
                Kind::MiniVmm { .. } => true,
                Kind::Peer { peer, .. } => peer.counts(),
                Kind::Host => false,
            };
            subject.repeats.is_none() && counts
        });
        let guests = u32::try_from(guests.count()).unwrap_or(u32::MAX);
        ((each + Duration::from_secs(3)) * windows + GUEST_TURN) * guests
    }

    /// An estimate of the time of the passes that follow interrupts.
    pub(super) fn following(&self) -> Duration {
        let guests = self.subjects.iter().filter(|s| s.is_followed()).count();
        GUEST_TURN * u32::try_from(guests).unwrap_or(u32::MAX)
    }

    /// An estimate of the time of the check by another program.
    pub(super) fn checking(&self) -> Duration {
        let each = Duration::from_millis(self.task.warm_up_ms + self.task.measure_ms);
        match self.checker {
            Some(_) => (each + HOST_TURN) * 4,
            None => Duration::ZERO,
        }
    }
}

/// The link of a network port.
fn link(device: &Device, settings: &Settings) -> Result<Option<Link>> {
    match &device.unit {
        Unit::Disk(_) | Unit::Function => Ok(None),
        Unit::Port(port) => Link::find(device, &port.mac, settings).map(Some),
    }
}

/// What is done in each turn, with so many CPUs.
fn task(
    settings: &Settings,
    (device, link): (&Device, Option<&Link>),
    cpus: usize,
    serial: Option<String>,
) -> Result<Task> {
    let (warm_up, measure) = settings.times();
    let engine = settings.engine.unwrap_or(match uring::is_there() {
        true => Engine::IoUring,
        false => Engine::Threads,
    });
    Ok(Task {
        works: match &device.unit {
            Unit::Disk(_) => settings.works(cpus),
            Unit::Port(_) => port_works(),
            Unit::Function => Vec::new(),
        },
        warm_up_ms: milliseconds(warm_up),
        measure_ms: milliseconds(measure),
        engine,
        target: match (&device.unit, link) {
            (_, Some(link)) => Target::Port(link.id.clone()),
            (Unit::Disk(disk), None) => Target::Disk(disk.id.clone()),
            (Unit::Function, None) => Target::Function,
            (Unit::Port(_), None) => {
                return Err(Error::new("the network port has no link"));
            }
        },
        function: FunctionId {
            modalias: device.modalias.clone(),
            driver: device.driver.is_some(),
        },
        destroy: serial,
    })
}

/// Refuses further words of the guest's command line that are this program's own: such a word could
/// let the guest take another disk for the one that was named.
fn check_words(words: &str) -> Result<()> {
    match words.contains(guest::PREFIX) {
        true => Err(Error::new(format!(
            "--guest-cmdline has a word with {}, which this program keeps for itself",
            guest::PREFIX
        ))),
        false => Ok(()),
    }
}

/// Finds the programs of other VMMs.
fn peers(choices: &[Choice]) -> Result<Vec<(Peer, Program)>> {
    let mut found: Vec<(Peer, Program)> = Vec::new();
    for Choice { peer, path } in choices {
        if found.iter().any(|(known, _)| known == peer) {
            continue;
        }
        let name = peer.program();
        let program = match path {
            Some(path) => Program::any(path, peer.version()),
            None => Program::in_path(name, peer.version()),
        };
        let program = program.map_err(|e| {
            e.with_hint(format!(
                "install {name}, name it with --peer NAME=PATH, or leave it out of --peer"
            ))
        })?;
        found.push((*peer, program));
    }
    Ok(found)
}

/// The modules of the device, and of the devices that other VMMs emulate. All guests have all of
/// them.
fn modules(lists: &Lists, device: &Device, peers: &[(Peer, Program)]) -> Vec<PathBuf> {
    let mut modules = lists.for_device(&device.modalias);
    for modalias in peers.iter().flat_map(|(peer, _)| peer.modaliases()) {
        for module in lists.for_device(modalias) {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
    }
    modules
}

/// The CPUs of all subjects. If the other end of a port is on this machine, half of the CPUs are
/// left to it.
fn choose_cpus(settings: &Settings, device: &Device, link: Option<&Link>) -> Result<Vec<usize>> {
    let allowed = cpus::allowed()?;
    let most = match link.map(|link| &link.end) {
        Some(End::Here(_)) => (allowed.len() / 2).clamp(1, cpus::MOST),
        _ => cpus::MOST,
    };
    cpus::choose(settings.cpus.as_deref(), &allowed, &device.path, most)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_s_words_are_none_of_this_program_s() {
        assert!(check_words("").is_ok() && check_words("nokaslr console=ttyS0").is_ok());
        for own in [
            guest::ANY_DISK,
            guest::RESTARTS,
            guest::SEED,
            guest::COUNT,
            guest::LIFE,
            guest::RESET,
            guest::FIRST_WORK,
        ] {
            assert!(check_words(&format!("quiet {own}")).is_err(), "{own}");
        }
    }
}
