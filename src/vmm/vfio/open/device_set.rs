//! The open devices of a VM. The first ones choose the kernel's interface; others that come later
//! join them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_ioctls::VmFd;
use tracing::debug;

use crate::config::Iommu;
use crate::log::error_chain::with_causes;
use crate::vfio::open::candidate::Candidate;
use crate::vfio::open::containers::{self, Containers, Joined};
use crate::vfio::open::error::VfioError;
use crate::vfio::open::interface::{self, Interface};
use crate::vfio::open::iommufd::{self, Nodes};
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

/// Devices that are not open yet, but for what resets none of them. Dropping this undoes it, unless
/// the devices have been opened.
pub struct Begun(Way);

enum Way {
    Container(Joined),
    Iommufd(Nodes),
}

impl Begun {
    /// The interface that opens the devices: `container` or `iommufd`.
    pub fn interface(&self) -> &'static str {
        match self.0 {
            Way::Container(_) => containers::INTERFACE,
            Way::Iommufd(_) => iommufd::INTERFACE,
        }
    }
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
        let begun = self.begin(candidates)?;
        self.finish(begun)
    }

    /// Does what resets no device: the groups and their containers, or the devices' nodes and the
    /// iommufd; and KVM learns of them. Nothing else may be opened before
    /// [`DeviceSet::finish`].
    ///
    /// # Errors
    /// The first step that fails. Everything that was open is closed again.
    pub fn begin(&self, candidates: &[Candidate]) -> Result<Begun, VfioError> {
        let opener = &self.opener;
        let ended = || opener.gives_up();
        leftover::wait_out(opener.limit(), ended, || self.begin_once(candidates))
    }

    fn begin_once(&self, candidates: &[Candidate]) -> Result<Begun, VfioError> {
        let kvm = self.kvm()?;
        let mut known = self.known();
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
        Ok(Begun(match interface {
            Interface::Container => {
                let known = &mut known.containers;
                Way::Container(containers::join(&kvm, known, candidates, opener)?)
            }
            Interface::Iommufd => {
                let (known, iommu) = (&mut known.iommufd, self.iommu);
                Way::Iommufd(iommufd::open_nodes(&kvm, known, candidates, iommu, opener)?)
            }
        }))
    }

    /// Opens the devices, which resets each, and gives them their IOMMU.
    ///
    /// # Errors
    /// The first device that cannot be opened. All devices are closed again.
    pub fn finish(&self, begun: Begun) -> Result<Opened, VfioError> {
        let opener = &self.opener;
        let ended = || opener.gives_up();
        leftover::wait_out(opener.limit(), ended, || {
            let mut known = self.known();
            match &begun.0 {
                Way::Container(joined) => joined.open(&mut known.containers),
                Way::Iommufd(nodes) => nodes.open(&mut known.iommufd),
            }
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether devices that are added now go by iommufd.
    pub fn is_by_iommufd(&self, candidates: &[Candidate]) -> bool {
        let known = self.known();
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
