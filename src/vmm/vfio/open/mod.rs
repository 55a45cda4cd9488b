//! Devices of the host, opened through VFIO.
//!
//! The order matters (Documentation/driver-api/vfio.rst and virt/kvm/devices/vfio.rst). With groups:
//! the group joins the container, the container gets its IOMMU, KVM learns of the group, and only
//! then is the device's descriptor taken. With iommufd: KVM learns of the device's file, the file is
//! bound to the iommufd and attached to its address space. vfio-ioctls keeps both orders and undoes
//! them in reverse.

mod assign;
pub mod candidate;
pub mod container;
mod error;
pub mod iommufd;
pub(super) mod open_device;
mod token_link;

use std::any::Any;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{io, mem, thread};

use assign::share;
use candidate::Candidate;
pub use candidate::find;
pub use error::VfioError;
use iommufd_ioctls::{IommuFd, IommufdError};
use kvm_bindings::{kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO};
use kvm_ioctls::VmFd;
use open_device::Handle;
use token_link::Alias;
use tracing::info;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioIommufd, VfioOps};

use crate::config::Iommu;
use crate::memory::dma::DmaMapper;
use crate::phase;
use crate::vfio::device::VfioFile;
use crate::vfio::dma::{Mapper, Space};

/// The control node of groups and containers.
const CONTAINER_NODE: &str = "/dev/vfio/vfio";
/// The control node of iommufd.
const IOMMUFD_NODE: &str = "/dev/iommu";

/// Devices that have been opened, and the IOMMU that serves them all.
pub struct Opened {
    /// In the order asked for.
    pub devices: Vec<Arc<VfioFile>>,
    /// Maps guest memory for all of them.
    pub mapper: Arc<dyn DmaMapper>,
    /// By which interface: `container` or `iommufd`.
    pub interface: &'static str,
}

/// The kernel's interface to the IOMMU.
#[derive(Clone)]
enum Interface {
    Container(Arc<VfioContainer>),
    Iommufd(Arc<VfioIommufd>),
}

/// A device to be opened.
struct Wanted<'a> {
    index: usize,
    candidate: &'a Candidate,
    /// One token a group: whoever holds the last closes the group.
    group: Arc<()>,
}

/// Opens the devices, each on a thread of its own: opening resets the function, which takes a tenth
/// of a second each (and makes another reset at the start needless). Without a `vm` they serve only
/// to be looked at. `pace` is told when there is nothing to do but to wait for them (true), and when
/// all are open (false).
///
/// # Errors
/// The first device that cannot be opened; all of them are closed again then.
pub fn open(
    vm: Option<&VmFd>,
    candidates: &[Candidate],
    iommu: Iommu,
    pace: &(dyn Fn(bool) + Sync),
) -> Result<Option<Opened>, VfioError> {
    let Some(first) = candidates.first() else {
        return Ok(None);
    };
    let kvm = vm.map(kvm_vfio).transpose()?;
    let mut groups: HashMap<u32, Arc<()>> = HashMap::new();
    let wanted = candidates.iter().enumerate().map(|(index, candidate)| {
        let group = Arc::clone(groups.entry(candidate.group).or_default());
        Wanted {
            index,
            candidate,
            group,
        }
    });
    let wanted = wanted.collect();
    drop(groups);
    let mut others = false;
    let interface = || {
        if mem::replace(&mut others, true) {
            info!("a further container, for what the others refuse");
            return Interface::container(&kvm, first);
        }
        Interface::open(&kvm, candidates, iommu, first)
    };
    let open_all = |interface: &Interface, wanted| open_all(interface, wanted, pace);
    let shared = share(wanted, interface, open_all, VfioError::is_refused_group)?;
    let mut devices = Vec::new();
    let mut spaces = Vec::new();
    let mut name = "container";
    for (interface, opened) in shared {
        name = interface.name();
        let opened = opened.into_iter().map(|(wanted, d)| (wanted.index, d));
        let opened: Vec<_> = opened.collect();
        let user = |d: &Arc<VfioFile>| Arc::downgrade(d) as Weak<dyn Any + Send + Sync>;
        let users = opened.iter().map(|(_, d)| user(d)).collect();
        spaces.push(interface.space(users).map_err(VfioError::IommuInfo)?);
        devices.extend(opened);
    }
    devices.sort_by_key(|(index, _)| *index);
    Ok(Some(Opened {
        devices: devices.into_iter().map(|(_, device)| device).collect(),
        mapper: Arc::new(Mapper::new(spaces)),
        interface: name,
    }))
}

/// KVM's own part of VFIO.
fn kvm_vfio(vm: &VmFd) -> Result<Arc<VfioDeviceFd>, VfioError> {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
        fd: 0,
        flags: 0,
    };
    let device = vm
        .create_device(&mut device)
        .map_err(VfioError::KvmDevice)?;
    Ok(Arc::new(VfioDeviceFd::new_from_kvm(device)))
}

fn open_all<'a>(
    interface: &Interface,
    wanted: Vec<Wanted<'a>>,
    pace: &(dyn Fn(bool) + Sync),
) -> Vec<(Wanted<'a>, Result<Arc<VfioFile>, VfioError>)> {
    let outstanding = Mutex::new(wanted.len());
    let done = || {
        let mut outstanding = outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        *outstanding -= 1;
        if *outstanding == 0 {
            pace(false);
        }
    };
    thread::scope(|scope| {
        let openers: Vec<_> = wanted
            .into_iter()
            .map(|wanted| {
                let (interface, candidate) = (interface.clone(), wanted.candidate);
                let group = Arc::clone(&wanted.group);
                let opener = thread::Builder::new()
                    .name(format!("open {}", candidate.name))
                    .spawn_scoped(scope, move || {
                        let opened = interface.open_device(candidate, group);
                        done();
                        opened
                    });
                if opener.is_err() {
                    done();
                }
                (wanted, opener)
            })
            .collect();
        {
            let outstanding = outstanding.lock().unwrap_or_else(PoisonError::into_inner);
            if *outstanding > 0 {
                pace(true);
            }
        }
        let join = |(wanted, opener): (_, io::Result<thread::ScopedJoinHandle<'_, _>>)| {
            let outcome = match opener.map(|o| o.join()) {
                Ok(Ok(outcome)) => outcome,
                _ => Err(VfioError::Thread),
            };
            (wanted, outcome)
        };
        openers.into_iter().map(join).collect()
    })
}

impl Interface {
    fn name(&self) -> &'static str {
        match self {
            Self::Container(_) => "container",
            Self::Iommufd(_) => "iommufd",
        }
    }

    fn open(
        kvm_vfio: &Option<Arc<VfioDeviceFd>>,
        candidates: &[Candidate],
        iommu: Iommu,
        first: &Candidate,
    ) -> Result<Self, VfioError> {
        let why_not = match iommu {
            Iommu::Container => None,
            Iommu::Iommufd => match candidates.iter().find(|c| c.token.is_some()) {
                None => return Self::iommufd(kvm_vfio, first),
                Some(candidate) => return Err(VfioError::TokenByIommufd(candidate.name)),
            },
            Iommu::Auto => match why_no_iommufd(candidates) {
                None => return Self::iommufd(kvm_vfio, first),
                why => why,
            },
        };
        if let Some(why) = why_not {
            info!("by group and container: {why}");
        }
        Self::container(kvm_vfio, first)
    }

    fn container(
        kvm_vfio: &Option<Arc<VfioDeviceFd>>,
        first: &Candidate,
    ) -> Result<Self, VfioError> {
        let container = VfioContainer::new(kvm_vfio.clone()).map_err(|e| match e {
            vfio_ioctls::VfioError::OpenContainer(source) => {
                VfioError::node(CONTAINER_NODE, None, source)
            }
            source => VfioError::Open {
                name: first.name,
                source,
            },
        })?;
        Ok(Self::Container(Arc::new(container)))
    }

    fn iommufd(kvm_vfio: &Option<Arc<VfioDeviceFd>>, first: &Candidate) -> Result<Self, VfioError> {
        let iommufd = IommuFd::new().map_err(|e| match e {
            IommufdError::OpenIommufd(source) => VfioError::node(IOMMUFD_NODE, None, source),
            other => VfioError::IommuInfo(io::Error::other(other)),
        })?;
        let iommufd =
            VfioIommufd::new(Arc::new(iommufd), None, kvm_vfio.clone()).map_err(|source| {
                VfioError::Open {
                    name: first.name,
                    source,
                }
            })?;
        info!("by iommufd");
        Ok(Self::Iommufd(Arc::new(iommufd)))
    }

    fn open_device(
        self,
        candidate: &Candidate,
        group: Arc<()>,
    ) -> Result<Arc<VfioFile>, VfioError> {
        let name = candidate.name;
        let _phase = phase!("open_device", name);
        let (ops, group): (Arc<dyn VfioOps>, _) = match self {
            Self::Container(container) => (container, Some(group)),
            Self::Iommufd(iommufd) => (iommufd, None),
        };
        let alias = candidate
            .token
            .map(|token| Alias::with_token(&candidate.path, token))
            .transpose()
            .map_err(VfioError::Alias)?;
        let path = alias.as_ref().map_or(&*candidate.path, Alias::path);
        let shown = alias.as_ref().map(Alias::show).transpose();
        let shown = shown.map_err(VfioError::Alias)?;
        let device = VfioDevice::new(path, ops, true).map_err(|e| match e {
            vfio_ioctls::VfioError::OpenGroup(source, _) => {
                VfioError::node(format!("/dev/vfio/{}", candidate.group), Some(name), source)
            }
            vfio_ioctls::VfioError::OpenDeviceCdev(source) => {
                VfioError::node(candidate.cdev().unwrap_or_default(), Some(name), source)
            }
            vfio_ioctls::VfioError::InvalidVfioDev => VfioError::NoCdev(name),
            // The kernel looks at the token before it opens the device.
            vfio_ioctls::VfioError::GroupGetDeviceFD(source)
            | vfio_ioctls::VfioError::VfioDeviceBindIommufd(source)
                if source.errno() == libc::EACCES =>
            {
                VfioError::TokenRefused {
                    name,
                    given: candidate.token.is_some(),
                    physical: candidate.physical,
                }
            }
            source => VfioError::Open { name, source },
        })?;
        drop(shown);
        info!("{name} is open (IOMMU group {})", candidate.group);
        let handle = Handle::new(device, path.into(), group, alias);
        Ok(Arc::new(VfioFile::new(name.to_string(), handle)?))
    }

    /// Once its devices are open: only then is it known what can be mapped.
    fn space(self, users: Vec<Weak<dyn Any + Send + Sync>>) -> io::Result<Space> {
        let (ranges, ops): (_, Arc<dyn VfioOps>) = match self {
            Self::Container(container) => (container::iova_ranges(&container)?, container),
            Self::Iommufd(iommufd) => (iommufd::iova_ranges(&iommufd)?, iommufd),
        };
        Ok(Space { ops, ranges, users })
    }
}

/// What keeps these devices from being opened by iommufd, if anything does.
fn why_no_iommufd(candidates: &[Candidate]) -> Option<String> {
    if let Some(candidate) = candidates.iter().find(|c| c.token.is_some()) {
        return Some(format!("{} is opened with a VF token", candidate.name));
    }
    let usable = |node: &str| OpenOptions::new().read(true).write(true).open(node);
    if let Err(e) = usable(IOMMUFD_NODE) {
        return Some(format!("{IOMMUFD_NODE}: {e}"));
    }
    candidates
        .iter()
        .find_map(|candidate| match candidate.cdev() {
            None => Some(format!("{} has no device node of its own", candidate.name)),
            // Opening it is left to the one who will bind it.
            Some(node) if !Path::new(&node).exists() => Some(format!("{node} is not there")),
            Some(_) => None,
        })
}
