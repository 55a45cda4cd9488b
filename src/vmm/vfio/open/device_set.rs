//! The open devices of a VM. The first ones choose the kernel's interface; others that come later
//! join them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_ioctls::VmFd;
use tracing::debug;

use crate::config::Iommu;
use crate::log::error_chain::with_causes;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::containers::{self, Containers};
use crate::vfio::open::error::VfioError;
use crate::vfio::open::interface::{self, Interface};
use crate::vfio::open::iommufd;
use crate::vfio::open::known_iommufd::KnownIommufd;
use crate::vfio::open::kvm::KvmVfio;
use crate::vfio::open::leftover;
use crate::vfio::open::opened::Opened;
use crate::vfio::opener::Opener;

/// The open devices of a VM.
pub struct DeviceSet {
    vm: Option<Arc<VmFd>>,
    iommu: Iommu,
    opener: Arc<Opener>,
    /// KVM's VFIO device, of which a VM has one. It is made for the first device, and stays: KVM
    /// makes no second one (virt/kvm/vfio.c, `kvm_vfio_create`).
    kvm: OnceLock<Arc<KvmVfio>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    containers: Containers,
    iommufd: KnownIommufd,
}

impl DeviceSet {
    /// A set without devices. Without a `vm` they can be read, but not passed to a guest. The
    /// `opener` makes the calls that may sleep.
    pub fn new(vm: Option<Arc<VmFd>>, iommu: Iommu, opener: &Arc<Opener>) -> Self {
        Self {
            vm,
            iommu,
            opener: Arc::clone(opener),
            kvm: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// Makes what stays once a device was there, so that a run that begins without one has later
    /// what it had before. What cannot be made is an error of the first device.
    pub fn prepare(&self) {
        if let Err(e) = self.kvm() {
            debug!("{}", with_causes(&e));
        }
    }

    /// Opens devices, beside those that are open. Those that are open have chosen the interface.
    ///
    /// # Errors
    /// The first device that cannot be opened. These devices are closed again.
    pub fn open(&self, candidates: &[Candidate]) -> Result<Opened, VfioError> {
        leftover::wait_out(self.opener.limit(), || self.open_once(candidates))
    }

    fn open_once(&self, candidates: &[Candidate]) -> Result<Opened, VfioError> {
        let kvm = self.kvm()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = (known.containers.are_in_use(), known.iommufd.is_in_use());
        let interface = match in_use {
            (true, _) => Interface::Container,
            (false, true) => Interface::Iommufd,
            (false, false) => interface::choose(candidates, self.iommu, &self.opener),
        };
        let opener = &self.opener;
        if let Some(waiting) = opener.given_up().into_iter().next() {
            return Err(VfioError::Waits(waiting));
        }
        match interface {
            Interface::Container => {
                containers::open(&kvm, &mut known.containers, candidates, opener)
            }
            Interface::Iommufd => {
                let iommu = self.iommu;
                iommufd::open(&kvm, &mut known.iommufd, candidates, iommu, opener)
            }
        }
    }

    /// Whether devices that are added now go by iommufd.
    pub fn is_by_iommufd(&self, candidates: &[Candidate]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.containers.are_in_use() {
            return false;
        }
        let chosen = || interface::choose(candidates, self.iommu, &self.opener);
        known.iommufd.is_in_use() || chosen() == Interface::Iommufd
    }

    fn kvm(&self) -> Result<Arc<KvmVfio>, VfioError> {
        if let Some(kvm) = self.kvm.get() {
            return Ok(Arc::clone(kvm));
        }
        let made = Arc::new(KvmVfio::new(self.vm.as_deref())?);
        Ok(Arc::clone(self.kvm.get_or_init(|| made)))
    }
}
