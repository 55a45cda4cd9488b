//! Devices of the host, opened through VFIO.
//!
//! The order matters (Documentation/driver-api/vfio.rst and virt/kvm/devices/vfio.rst). With groups:
//! the group joins the container, the container gets its IOMMU, KVM learns of the group, and only
//! then is the device's descriptor taken. With iommufd: KVM learns of the device's file, the file is
//! bound to the iommufd and attached to its address space. vfio-ioctls keeps both orders and undoes
//! them in reverse.

mod alias;
pub mod bar_map;
pub mod candidate;
pub mod config_policy;
pub mod container;
pub mod device;
mod error;
pub mod function;
mod handle;
mod image;
pub mod interrupts;
pub mod iommufd;
pub mod mapper;
mod placement;
pub mod rom;
mod trap;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use iommufd_ioctls::{IommuFd, IommufdError};
use kvm_bindings::{kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO};
use kvm_ioctls::VmFd;
use tracing::info;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioIommufd, VfioOps};

use crate::config::Iommu;
use crate::memory::dma::DmaMapper;
use alias::Alias;
use candidate::Candidate;
use device::VfioFile;
use handle::Handle;
use mapper::Mapper;

pub use candidate::find;
pub use error::VfioError;

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
}

/// The kernel's interface to the IOMMU.
#[derive(Clone)]
enum Interface {
    Container(Arc<VfioContainer>),
    Iommufd(Arc<VfioIommufd>),
}

/// Opens the devices, each on a thread of its own: opening resets the function, which takes a tenth
/// of a second each (and makes another reset at the start needless).
///
/// # Errors
/// The first device that cannot be opened; all of them are closed again then.
pub fn open(
    vm: &VmFd,
    candidates: &[Candidate],
    iommu: Iommu,
) -> Result<Option<Opened>, VfioError> {
    let Some(first) = candidates.first() else {
        return Ok(None);
    };
    let interface = Interface::open(vm, candidates, iommu, first)?;
    // One token a group: whoever holds the last closes the group.
    let mut groups: HashMap<u32, Arc<()>> = HashMap::new();
    let members: Vec<_> = candidates
        .iter()
        .map(|c| (c, Arc::clone(groups.entry(c.group).or_default())))
        .collect();
    drop(groups);
    let devices = thread::scope(|scope| {
        let openers: Vec<_> = members
            .into_iter()
            .map(|(candidate, group)| {
                let interface = interface.clone();
                thread::Builder::new()
                    .name(format!("open {}", candidate.name))
                    .spawn_scoped(scope, move || interface.open_device(candidate, group))
            })
            .collect();
        let opened: Vec<_> = openers
            .into_iter()
            .map(|opener| match opener.map(|o| o.join()) {
                Ok(Ok(outcome)) => outcome,
                _ => Err(VfioError::Thread),
            })
            .collect();
        opened.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let mapper = interface.mapper().map_err(VfioError::IommuInfo)?;
    Ok(Some(Opened { devices, mapper }))
}

impl Interface {
    fn open(
        vm: &VmFd,
        candidates: &[Candidate],
        iommu: Iommu,
        first: &Candidate,
    ) -> Result<Self, VfioError> {
        let mut kvm_vfio = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
            fd: 0,
            flags: 0,
        };
        let kvm_vfio = vm
            .create_device(&mut kvm_vfio)
            .map_err(VfioError::KvmDevice)?;
        let kvm_vfio = Arc::new(VfioDeviceFd::new_from_kvm(kvm_vfio));
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
        let container = VfioContainer::new(Some(kvm_vfio)).map_err(|e| match e {
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

    fn iommufd(kvm_vfio: Arc<VfioDeviceFd>, first: &Candidate) -> Result<Self, VfioError> {
        let iommufd = IommuFd::new().map_err(|e| match e {
            IommufdError::OpenIommufd(source) => VfioError::node(IOMMUFD_NODE, None, source),
            other => VfioError::IommuInfo(io::Error::other(other)),
        })?;
        let iommufd =
            VfioIommufd::new(Arc::new(iommufd), None, Some(kvm_vfio)).map_err(|source| {
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
        info!("{name} is open (IOMMU group {})", candidate.group);
        let handle = Handle::new(device, path.into(), group, alias);
        Ok(Arc::new(VfioFile::new(name.to_string(), handle)?))
    }

    /// Once the devices are open: only then is it known what can be mapped.
    fn mapper(self) -> io::Result<Arc<dyn DmaMapper>> {
        let (ranges, ops): (_, Arc<dyn VfioOps>) = match self {
            Self::Container(container) => (container::iova_ranges(&container)?, container),
            Self::Iommufd(iommufd) => (iommufd::iova_ranges(&iommufd)?, iommufd),
        };
        Ok(Arc::new(Mapper::new(ops, ranges)))
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
