//! Devices by their own nodes and an iommufd (Documentation/userspace-api/iommufd.rst;
//! Documentation/driver-api/vfio.rst, "IOMMUFD and vfio_iommu_type1" and "VFIO Device cdev").
//!
//! Each device is opened in this order:
//!
//! 1. **The iommufd.** `/dev/iommu` gives an empty set of objects, and IOMMU_IOAS_ALLOC one I/O
//!    address space in it, which all devices use.
//! 2. **The device's node** (`/dev/vfio/devices/vfioN`, its *cdev*). Until step 4 the device itself
//!    is not open, and the file fails all other calls.
//! 3. **KVM** learns of the file (KVM_DEV_VFIO_FILE_ADD), because some drivers look for the VM when
//!    their device is opened, which is step 4 (Documentation/virt/kvm/devices/vfio.rst).
//! 4. **Bind** (VFIO_DEVICE_BIND_IOMMUFD). The iommufd becomes the owner of the device's DMA, for
//!    the whole group. The call opens and resets the function; from now on the file serves all
//!    calls. A VF token goes with this call, where the kernel takes it (since Linux 6.17).
//! 5. **Attach** (VFIO_DEVICE_ATTACH_IOMMUFD_PT). Until then all DMA of the device is blocked; from
//!    then on the address space translates it.
//!
//! The process of the [`Opener`] makes the calls of steps 4 and 5, because they may sleep: step 4
//! for the device, and step 5 while a device that is reset together with this one is opened or
//! closed.
//!
//! Closing goes the other way. The device is detached. KVM drops the file, because KVM's reference
//! keeps the file open. The file closes, which unbinds the device. The iommufd closes last. A
//! failed step is logged, and closing goes on. vfio-ioctls' own device type panics if a step fails,
//! so it is not used: vfio-ioctls only makes the address space and maps memory.

use std::any::Any;
use std::fs::File;
use std::sync::{Arc, Mutex};

use tracing::{info, warn};
use uuid::Uuid;
use vfio_ioctls::VfioIommufd;

use crate::config::Iommu;
use crate::vfio::dma::{IovaSpace, IovaSpaces, User};
use crate::vfio::open::address_space;
use crate::vfio::open::attempts::Attempts;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::error::VfioError;
use crate::vfio::open::known_iommufd::KnownIommufd;
use crate::vfio::open::kvm::KvmVfio;
use crate::vfio::open::nodes;
use crate::vfio::open::opened::Opened;
use crate::vfio::open::parallel::open_each;
use crate::vfio::opener::{DeviceFile, Opener, Waiting};
use crate::vfio::uapi;
use crate::vfio::vfio_file::{OpenDevice, VfioFile};

/// The name of this interface.
pub(super) const INTERFACE: &str = "iommufd";
/// The call of step 4.
const BIND: &str = "VFIO_DEVICE_BIND_IOMMUFD";

/// Devices of which KVM knows, and which are not open yet. Dropping this closes their nodes.
pub(super) struct Nodes {
    iommufd: Arc<VfioIommufd>,
    /// In the order of the devices.
    devices: Vec<(Candidate, Attempts<Option<CdevDevice>, VfioFile>)>,
}

/// Steps 1 to 3, for all devices. No device is reset yet.
///
/// # Errors
/// The first step that fails. Everything that was open is closed again.
pub(super) fn open_nodes(
    kvm: &Arc<KvmVfio>,
    known: &mut KnownIommufd,
    candidates: &[Candidate],
    choice: Iommu,
    opener: &Arc<Opener>,
) -> Result<Nodes, VfioError> {
    // Step 1, with the first device.
    let iommufd = match known.iommufd() {
        Some(iommufd) => iommufd,
        None => {
            let iommufd = address_space::open(choice, opener)?;
            info!("by iommufd");
            known.keep(&iommufd, choice);
            iommufd
        }
    };
    let node = |candidate: &Candidate| {
        let device = CdevDevice::open_node(&iommufd, kvm, opener, candidate)?;
        Ok((candidate.clone(), Attempts::new(Some(device))))
    };
    let devices = candidates
        .iter()
        .map(node)
        .collect::<Result<_, VfioError>>()?;
    Ok(Nodes { iommufd, devices })
}

impl Nodes {
    /// Steps 4 and 5, all devices at once, because each is reset. All are in one I/O address space.
    /// May be tried again after another process had a device.
    ///
    /// # Errors
    /// The first step that fails.
    pub fn open(&self, known: &mut KnownIommufd) -> Result<Opened, VfioError> {
        let iommufd = &self.iommufd;
        let devices = open_each(
            &self.devices,
            |(candidate, _)| candidate.name.to_string(),
            |(candidate, attempts)| {
                attempts.open(candidate.name, |node| open(node, iommufd, candidate))
            },
        )?;
        let users = devices.iter().map(|device| Arc::downgrade(device) as User);
        let users: Vec<User> = users.collect();
        let interface = INTERFACE;
        if let Some(mapper) = known.mapper_for(iommufd, &users) {
            return Ok(Opened {
                devices,
                mapper,
                interface,
            });
        }
        let space = IovaSpace {
            // Each attached device may have narrowed the addresses that can be mapped.
            ranges: address_space::iova_ranges(iommufd)
                .map_err(|e| address_space::iommu("IOMMU_IOAS_IOVA_RANGES", e))?,
            users: Mutex::new(users),
            ops: Arc::<VfioIommufd>::clone(iommufd),
        };
        let mapper = Arc::new(IovaSpaces::of_iommufd(space, Arc::clone(iommufd)));
        known.set_mapper(&mapper);
        Ok(Opened {
            devices,
            mapper,
            interface,
        })
    }
}

/// Steps 4 and 5 for one device, after which it is no mere node any more.
fn open(
    node: &mut Option<CdevDevice>,
    iommufd: &Arc<VfioIommufd>,
    candidate: &Candidate,
) -> Result<VfioFile, VfioError> {
    let name = candidate.name;
    let device = node.as_mut().ok_or(VfioError::Thread)?;
    device.attach(iommufd, candidate)?;
    info!("{name} is open (IOMMU group {})", candidate.group);
    let device = node.take().ok_or(VfioError::Thread)?;
    Ok(VfioFile::new(
        name.to_string(),
        &candidate.path,
        Box::new(device),
    )?)
}

/// A device by its own node.
struct CdevDevice {
    name: String,
    /// Closes before `iommufd`.
    file: DeviceFile,
    /// The last step done, from which closing goes back.
    stage: Stage,
    kvm: Arc<KvmVfio>,
    /// Stays open while the device is bound to it.
    _iommufd: Arc<dyn Any + Send + Sync>,
}

/// The last step that a device has done. Closing the file undoes the other steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    KnownToKvm,
    Attached,
}

impl CdevDevice {
    /// Steps 2 and 3. After an error the device is dropped, which undoes the steps that were done.
    fn open_node(
        iommufd: &Arc<VfioIommufd>,
        kvm: &Arc<KvmVfio>,
        opener: &Arc<Opener>,
        candidate: &Candidate,
    ) -> Result<Self, VfioError> {
        let name = candidate.name.to_string();
        let mut device = Self {
            file: DeviceFile::new(name.clone(), open_node(candidate, opener)?, opener),
            name,
            stage: Stage::Open,
            kvm: Arc::clone(kvm),
            _iommufd: Arc::<VfioIommufd>::clone(iommufd),
        };
        device.check_token(candidate)?;
        // Step 3, before the device is open: its driver may look for the VM then.
        kvm.add(&device.file)
            .map_err(|e| candidate.call_failed("KVM_DEV_VFIO_FILE_ADD", e))?;
        device.stage = Stage::KnownToKvm;
        Ok(device)
    }

    /// Checks that step 4 takes the device's VF token, if it has one. The question resets nothing,
    /// so the user is told before the guest runs.
    fn check_token(&self, candidate: &Candidate) -> Result<(), VfioError> {
        if candidate.token.is_none() {
            return Ok(());
        }
        match self.file.opener().takes_token(&self.name, &self.file) {
            Ok(true) => Ok(()),
            Ok(false) => Err(VfioError::TokenByIommufd(candidate.name)),
            Err(e) => Err(candidate.not_given(BIND, e)),
        }
    }

    /// Steps 4 and 5.
    fn attach(
        &mut self,
        iommufd: &Arc<VfioIommufd>,
        candidate: &Candidate,
    ) -> Result<(), VfioError> {
        // Step 4, before attaching: only the owner of the device's DMA may choose its mappings.
        let opener = self.file.opener();
        let token = candidate.token.map(Uuid::into_bytes);
        let owner = uapi::borrow(iommufd.iommufd());
        opener
            .bind(&self.name, &self.file, owner, token)
            .map_err(|e| candidate.not_given(BIND, e))?;

        // Step 5, last: from here on the device reaches memory.
        opener
            .attach(&self.name, &self.file, iommufd.ioas().id())
            .map_err(|e| candidate.call_failed("VFIO_DEVICE_ATTACH_IOMMUFD_PT", e))?;
        self.stage = Stage::Attached;
        Ok(())
    }
}

/// Step 2, which another process may have done.
fn open_node(candidate: &Candidate, opener: &Opener) -> Result<File, VfioError> {
    let name = candidate.name;
    if let Some(given) = candidate.given {
        return given
            .take()
            .map_err(|source| VfioError::Given { name, source });
    }
    let node = candidate.cdev().ok_or(VfioError::NoCdev(name))?;
    nodes::open(opener, &name.to_string(), &node).map_err(|e| match Waiting::behind(&e) {
        Some(waiting) => VfioError::Waits(waiting.clone()),
        None => {
            let group = nodes::group(candidate.group);
            VfioError::node(node, Some(name), e, Some(group))
        }
    })
}

impl OpenDevice for CdevDevice {
    fn file(&self) -> &DeviceFile {
        &self.file
    }

    /// Always `None`: the kernel knows the owner of each device by its iommufd.
    fn group_file(&self, _: u32) -> Option<Arc<File>> {
        None
    }
}

impl Drop for CdevDevice {
    fn drop(&mut self) {
        let failed = |call, e| warn!("{}: {call} failed: {e}", self.name);
        let opener = self.file.opener();
        // After a call that sleeps, the close undoes this step too.
        if self.stage == Stage::Attached
            && !opener.is_stuck()
            && let Err(e) = opener.detach(&self.name, &self.file)
        {
            failed("VFIO_DEVICE_DETACH_IOMMUFD_PT", e);
        }
        if self.stage != Stage::Open
            && let Err(e) = self.kvm.remove(&self.file)
        {
            failed("KVM_DEV_VFIO_FILE_DEL", e);
        }
    }
}

#[cfg(test)]
mod tests;
