//! Devices by their IOMMU groups and a container (Documentation/driver-api/vfio.rst).
//!
//! Each device is opened in this order:
//!
//! 1. **The container.** `/dev/vfio/vfio` gives an empty set of I/O mappings.
//! 2. **The group.** `/dev/vfio/N` can be opened only once. The IOMMU cannot tell the devices of a
//!    group apart, so the kernel hands out whole groups, and only groups of which no host driver
//!    holds a device: such a group is *viable* (VFIO_GROUP_GET_STATUS).
//! 3. **The group joins the container** (VFIO_GROUP_SET_CONTAINER). The kernel gives an IOMMU only
//!    to a container that has devices.
//! 4. **The IOMMU** (VFIO_SET_IOMMU), once, for the first group. A further group must be compatible
//!    with that IOMMU, or the kernel refuses the group at step 3.
//! 5. **KVM** learns of the group (KVM_DEV_VFIO_FILE_ADD), because some drivers look for the VM
//!    when their device is opened (Documentation/virt/kvm/devices/vfio.rst).
//! 6. **The device** (VFIO_GROUP_GET_DEVICE_FD). The device comes last, so that it reaches only
//!    memory that the container maps. The call opens and resets the function.
//!
//! The process of the [`Opener`] makes the calls of steps 2 and 6, because they may sleep: step 6
//! for the device, and step 2 while another process opens or closes a device of the group.
//!
//! Closing goes the other way. A device closes before its group leaves the container, because the
//! kernel keeps a group with open devices in. KVM drops the group before the group's file closes,
//! because KVM's reference keeps the file open. The container closes last. No step reads sysfs,
//! which the device may have left. A failed step is logged, and closing goes on.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use vfio_bindings::bindings::vfio::{VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE1v2_IOMMU};
use vfio_ioctls::{VfioContainer, VfioOps};

use crate::vfio::dma::{IovaSpace, User};
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::error::{StepError, VfioError};
use crate::vfio::open::kvm::KvmVfio;
use crate::vfio::open::no_container;
use crate::vfio::open::nodes;
use crate::vfio::open::open_groups::OpenGroups;
use crate::vfio::opener::{DeviceFile, Opener};
use crate::vfio::vfio_file::OpenDevice;
use crate::vfio::{info, uapi};

/// The uses of vfio-ioctls' container: it maps memory and lends its descriptor.
trait Maps: VfioOps + AsRawFd {}

impl<T: VfioOps + AsRawFd> Maps for T {}

/// A set of I/O mappings, and the groups that use it.
pub(super) struct Container {
    /// vfio-ioctls opens the container and maps memory. Its code for groups is not used: it does
    /// not give out the group's descriptor, and searches sysfs for the device when it closes a
    /// group.
    vfio: Arc<dyn Maps>,
    kvm: Arc<KvmVfio>,
    opener: Arc<Opener>,
    /// How many groups have joined. Locked while one joins or leaves.
    members: Mutex<usize>,
    groups: Arc<OpenGroups>,
}

impl Container {
    /// Its calls.
    pub fn ops(&self) -> Arc<dyn VfioOps> {
        Arc::<dyn Maps>::clone(&self.vfio)
    }

    /// Step 1. `first` is the first device whose group will join.
    pub fn open(
        kvm: &Arc<KvmVfio>,
        groups: &Arc<OpenGroups>,
        opener: &Arc<Opener>,
        first: &Candidate,
    ) -> Result<Self, VfioError> {
        let vfio = VfioContainer::new(None).map_err(|e| match e {
            vfio_ioctls::VfioError::OpenContainer(source) => {
                VfioError::node(nodes::CONTAINER, None, source, None)
            }
            other => first.failed(no_container::why(other)),
        })?;
        Ok(Self {
            vfio: Arc::new(vfio),
            kvm: Arc::clone(kvm),
            opener: Arc::clone(opener),
            members: Mutex::new(0),
            groups: Arc::clone(groups),
        })
    }

    /// Steps 2 to 5, for the group of a device.
    pub fn join(self: &Arc<Self>, candidate: &Candidate) -> Result<Arc<Group>, VfioError> {
        let mut group = Group::open(self, candidate)?;
        group.join().map_err(|step| candidate.failed(step))?;
        self.groups.add(group.number, &group.file);
        Ok(Arc::new(group))
    }

    /// The container as the I/O address space of the devices `users`.
    pub fn space(&self, users: Vec<User>) -> Result<IovaSpace, VfioError> {
        let info = uapi::iommu_info(&*self.vfio).map_err(|source| VfioError::Iommu {
            call: "VFIO_IOMMU_GET_INFO",
            source,
        })?;
        Ok(IovaSpace {
            ops: Arc::<dyn Maps>::clone(&self.vfio),
            ranges: info::iova_ranges(&info),
            users: Mutex::new(users),
        })
    }

    fn members(&self) -> MutexGuard<'_, usize> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open IOMMU group. It leaves its container when the last of its devices has closed.
pub(super) struct Group {
    number: u32,
    /// A hot reset shares the file while the reset lasts. The file closes before `container`.
    file: Arc<File>,
    /// The last step done, from which closing goes back.
    stage: Stage,
    container: Arc<Container>,
}

/// The last step that a group has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    InContainer,
    KnownToKvm,
}

impl Group {
    /// Step 2.
    fn open(container: &Arc<Container>, candidate: &Candidate) -> Result<Self, VfioError> {
        let node = nodes::group(candidate.group);
        let file = container.opener.open(&candidate.name.to_string(), &node);
        let file =
            file.map_err(|e| VfioError::node(node, Some(candidate.name), e, candidate.cdev()))?;
        let status = uapi::group_status(&file)
            .map_err(|e| candidate.failed(StepError::call("VFIO_GROUP_GET_STATUS", e)))?;
        if status & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(candidate.failed(StepError::NotViable));
        }
        Ok(Self {
            number: candidate.group,
            file: Arc::new(file),
            stage: Stage::Open,
            container: Arc::clone(container),
        })
    }

    /// Steps 3 to 5. After an error the group is dropped, which undoes the steps that were done.
    fn join(&mut self) -> Result<(), StepError> {
        let container = Arc::clone(&self.container);
        let mut members = container.members();
        uapi::set_container(&self.file, &*container.vfio).map_err(StepError::SetContainer)?;
        self.stage = Stage::InContainer;
        *members += 1;
        if *members == 1 {
            uapi::set_iommu(&*container.vfio, VFIO_TYPE1v2_IOMMU).map_err(StepError::SetIommu)?;
        }
        let added = container.kvm.add(&self.file);
        added.map_err(|e| StepError::call("KVM_DEV_VFIO_FILE_ADD", e))?;
        self.stage = Stage::KnownToKvm;
        Ok(())
    }

    /// Whether it is the group of a device.
    pub fn is_of(&self, candidate: &Candidate) -> bool {
        self.number == candidate.group
    }

    /// The container in which the group is.
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Step 6.
    pub fn device(self: &Arc<Self>, candidate: &Candidate) -> Result<GroupDevice, VfioError> {
        // Neither an address nor a UUID has a NUL; the kernel refuses an empty name.
        let name = CString::new(candidate.name_and_token()).unwrap_or_default();
        let opener = &self.container.opener;
        let device = candidate.name.to_string();
        let file = opener
            .device_of_group(&device, &self.file, name)
            .map_err(|e| candidate.not_given("VFIO_GROUP_GET_DEVICE_FD", e))?;
        Ok(GroupDevice {
            file: DeviceFile::new(device, file, opener),
            group: Arc::clone(self),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let failed = |call, e| warn!("IOMMU group {}: {call} failed: {e}", self.number);
        if self.stage == Stage::KnownToKvm
            && let Err(e) = self.container.kvm.remove(&self.file)
        {
            failed("KVM_DEV_VFIO_FILE_DEL", e);
        }
        // While a call for a device of the group sleeps, the kernel has the group's lock. The group
        // leaves its container when the last of its files closes.
        if self.stage != Stage::Open && !self.container.opener.is_stuck() {
            // With its last group the container loses its IOMMU and unmaps all memory.
            let mut members = self.container.members();
            *members = members.saturating_sub(1);
            // If the last device of a group leaves its bus, the kernel itself takes the group out
            // of the container, and the call fails with EINVAL (drivers/vfio/group.c,
            // vfio_device_remove_group).
            if let Err(e) = uapi::unset_container(&self.file)
                && e.raw_os_error() != Some(libc::EINVAL)
            {
                failed("VFIO_GROUP_UNSET_CONTAINER", e);
            }
        }
    }
}

/// A device of a group. The order of the fields is that of closing.
pub(super) struct GroupDevice {
    file: DeviceFile,
    group: Arc<Group>,
}

impl OpenDevice for GroupDevice {
    fn file(&self) -> &DeviceFile {
        &self.file
    }

    fn group_file(&self, number: u32) -> Option<Arc<File>> {
        self.group.container.groups.file(number)
    }
}

#[cfg(test)]
mod tests;
