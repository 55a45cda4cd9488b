//! The containers of a VM: opens devices with as few of them as possible, also beside devices that
//! are open.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use tracing::info;

use crate::vfio::dma::{IovaSpaces, User};
use crate::vfio::open::assign::assign;
use crate::vfio::open::attempts::Attempts;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::container::{Container, Group};
use crate::vfio::open::error::VfioError;
use crate::vfio::open::kvm::KvmVfio;
use crate::vfio::open::open_groups::OpenGroups;
use crate::vfio::open::opened::Opened;
use crate::vfio::open::parallel::open_each;
use crate::vfio::opener::Opener;
use crate::vfio::vfio_file::VfioFile;

/// A device that is not open yet, and its group.
struct Wanted {
    candidate: Candidate,
    group: Arc<Group>,
    attempts: Attempts<(), VfioFile>,
}

/// Devices whose groups are in containers, and which are not open yet. Dropping this closes the
/// groups.
pub(super) struct Joined {
    /// In the order of the devices.
    wanted: Vec<Wanted>,
    /// Groups of devices that are open already, and those that their containers have taken.
    joined: Vec<Arc<Group>>,
    /// New containers.
    assigned: Vec<(Arc<Container>, Vec<Arc<Group>>)>,
}

/// Steps 1 to 5: opens the groups, with as few containers as possible. No device is reset yet.
///
/// # Errors
/// The first step that fails. Everything that was open is closed again.
pub(super) fn join(
    kvm: &Arc<KvmVfio>,
    known: &mut Containers,
    candidates: &[Candidate],
    opener: &Arc<Opener>,
) -> Result<Joined, VfioError> {
    let groups = Arc::clone(&known.groups);
    let mut joined = Vec::new();
    let mut left = Vec::new();
    for first in first_of_each_group(candidates) {
        match known.join(first)? {
            Some(group) => joined.push(group),
            None => left.push(first),
        }
    }
    let mut containers = known.containers().count();
    // One group after the other: the first group of a container decides on its IOMMU.
    let assigned = assign(
        left,
        |first| {
            containers += 1;
            if containers > 1 {
                info!("container {containers}, for groups that the other containers refuse");
            }
            Container::open(kvm, &groups, opener, first).map(Arc::new)
        },
        |container, candidate| container.join(candidate),
        VfioError::is_refused_group,
    )?;
    if let (Some(first), false, false) =
        (candidates.first(), joined.is_empty(), assigned.is_empty())
    {
        return Err(VfioError::Apart(first.name));
    }
    let of_its_group = |candidate: &Candidate| {
        let new = assigned.iter().flat_map(|(_, groups)| groups);
        let mut groups = joined.iter().chain(new);
        let group = groups.find(|group| group.is_of(candidate))?;
        Some(Wanted {
            candidate: candidate.clone(),
            group: Arc::clone(group),
            attempts: Attempts::new(()),
        })
    };
    Ok(Joined {
        wanted: candidates.iter().filter_map(of_its_group).collect(),
        joined,
        assigned,
    })
}

impl Joined {
    /// Step 6: opens all devices at once, because each is reset. May be tried again after another
    /// process had a device.
    ///
    /// # Errors
    /// The first device that cannot be opened. The others stay open.
    pub fn open(&self, known: &mut Containers) -> Result<Opened, VfioError> {
        let devices = open_each(
            &self.wanted,
            |wanted| wanted.candidate.name.to_string(),
            |wanted| {
                let open = |(): &mut ()| open_device(&wanted.candidate, &wanted.group);
                wanted.attempts.open(wanted.candidate.name, open)
            },
        )?;
        // All devices are open, so each container knows which addresses it can map.
        let users = |container: &Arc<Container>| {
            let inside = self.wanted.iter().zip(&devices);
            let inside =
                inside.filter(|(wanted, _)| Arc::ptr_eq(wanted.group.container(), container));
            let users = inside.map(|(_, device)| Arc::downgrade(device) as User);
            users.collect::<Vec<_>>()
        };
        let mapper = match self.joined.first() {
            Some(_) => {
                let found = known.mapper_of(&self.joined, users);
                let apart = || {
                    self.wanted
                        .first()
                        .map(|w| VfioError::Apart(w.candidate.name))
                };
                found.ok_or_else(|| apart().unwrap_or(VfioError::Thread))?
            }
            None => {
                let space =
                    |(container, _): &(Arc<Container>, _)| container.space(users(container));
                let spaces = self.assigned.iter().map(space).collect::<Result<_, _>>()?;
                let mapper = Arc::new(IovaSpaces::new(spaces));
                known.keep(&self.assigned, &mapper);
                mapper
            }
        };
        Ok(Opened {
            devices,
            mapper,
            interface: INTERFACE,
        })
    }
}

/// The name of this interface.
pub(super) const INTERFACE: &str = "container";

/// The containers and groups of a VM. They stay open as long as their devices.
#[derive(Default)]
pub(super) struct Containers {
    groups: Arc<OpenGroups>,
    containers: Vec<Weak<Container>>,
    open: Vec<Weak<Group>>,
    mappers: Vec<Weak<IovaSpaces>>,
}

impl Containers {
    fn containers(&self) -> impl Iterator<Item = Arc<Container>> + '_ {
        self.containers.iter().filter_map(Weak::upgrade)
    }

    /// Whether a device is open in a container.
    pub fn are_in_use(&self) -> bool {
        self.containers().next().is_some()
    }

    /// The group of a device in one of the containers: it is open already, or a container takes it.
    fn join(&mut self, candidate: &Candidate) -> Result<Option<Arc<Group>>, VfioError> {
        let mut open = self.open.iter().filter_map(Weak::upgrade);
        if let Some(group) = open.find(|group| group.is_of(candidate)) {
            return Ok(Some(group));
        }
        for container in self.containers().collect::<Vec<_>>() {
            match container.join(candidate) {
                Ok(group) => {
                    self.open.retain(|group| group.strong_count() > 0);
                    self.open.push(Arc::downgrade(&group));
                    return Ok(Some(group));
                }
                Err(e) if e.is_refused_group() => info!("{e}"),
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// The mapper of the groups' containers, which gets their new users. `None` if they have more
    /// than one.
    fn mapper_of(
        &self,
        groups: &[Arc<Group>],
        users: impl Fn(&Arc<Container>) -> Vec<User>,
    ) -> Option<Arc<IovaSpaces>> {
        let add = |mapper: &Arc<IovaSpaces>| {
            let mut containers: Vec<&Arc<Container>> = Vec::new();
            for group in groups {
                if !containers.iter().any(|c| Arc::ptr_eq(c, group.container())) {
                    containers.push(group.container());
                }
            }
            let mut added = containers
                .into_iter()
                .map(|container| mapper.add_users(&*container.ops(), &users(container)));
            added.all(|added| added)
        };
        let mut mappers = self.mappers.iter().filter_map(Weak::upgrade);
        mappers.find(add)
    }

    fn keep(&mut self, new: &[(Arc<Container>, Vec<Arc<Group>>)], mapper: &Arc<IovaSpaces>) {
        self.containers.retain(|c| c.strong_count() > 0);
        self.mappers.retain(|m| m.strong_count() > 0);
        self.open.retain(|group| group.strong_count() > 0);
        self.mappers.push(Arc::downgrade(mapper));
        for (container, groups) in new {
            self.containers.push(Arc::downgrade(container));
            self.open.extend(groups.iter().map(Arc::downgrade));
        }
    }
}

fn first_of_each_group(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut seen = HashSet::new();
    let is_new = |candidate: &&Candidate| seen.insert(candidate.group);
    candidates.iter().filter(is_new).collect()
}

fn open_device(candidate: &Candidate, group: &Arc<Group>) -> Result<VfioFile, VfioError> {
    let name = candidate.name;
    let device = group.device(candidate)?;
    info!("{name} is open (IOMMU group {})", candidate.group);
    let file = VfioFile::new(name.to_string(), &candidate.path, Box::new(device))?;
    Ok(file)
}
