//! What VFIO has to say about a device itself: that it has failed, and that the host wants it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use crate::machine::{Machine, MachineError};
use crate::sys::eventfd;
use crate::vfio::device::{Irq, SharedDevice};
use crate::vfio::function::VfioFunction;

impl Machine {
    /// Listens to what VFIO has to say about the device itself.
    pub(super) fn watch(
        &mut self,
        device: &SharedDevice,
        function: &Arc<VfioFunction>,
    ) -> Result<(), MachineError> {
        let failed = Arc::downgrade(function);
        let on_error = move || {
            if let Some(function) = failed.upgrade()
                && function.fence()
            {
                let name = function.name();
                warn!("{name} has failed: the guest sees it no more, and lives on");
            }
        };
        let name = device.name().to_string();
        let wanted = Arc::downgrade(function);
        let (space, dma) = (Arc::clone(&self.around.space), self.dma.clone());
        let in_use = Arc::clone(&self.in_use);
        // The host asks again until it has the device; only the first time counts.
        let given = AtomicBool::new(false);
        let on_request = move || {
            if given.swap(true, Ordering::Relaxed) {
                return;
            }
            warn!("the host wants {name} back: the guest loses it, and lives on");
            let Some(function) = wanted.upgrade() else {
                return;
            };
            function.fence();
            // The IOMMU's maps go with the last device that has them.
            if in_use.fetch_sub(1, Ordering::Relaxed) == 1
                && let Some(dma) = &dma
            {
                space.unsubscribe(&**dma);
            }
            // Not while a piece of RAM is being mapped in a container that goes with it.
            match &dma {
                Some(dma) => dma.between_pieces(|| function.release()),
                None => function.release(),
            }
        };
        self.watch_one(device, Irq::Error, on_error)?;
        self.watch_one(device, Irq::Request, on_request)
    }

    fn watch_one(
        &mut self,
        device: &SharedDevice,
        irq: Irq,
        handler: impl Fn() + Send + Sync + 'static,
    ) -> Result<(), MachineError> {
        if device.irq(irq).is_none() {
            return Ok(());
        }
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(MachineError::Descriptors)?;
        self.service
            .watch(&event, handler)
            .map_err(MachineError::Descriptors)?;
        device.set_events(irq, 0, &[Some(eventfd::borrow(&event))])?;
        self.notices.push(event);
        Ok(())
    }
}
