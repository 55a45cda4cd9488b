//! Events of the host's devices: a device has failed, or the host asks for it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::event_thread::EventThread;
use crate::log::degraded::{self, Code};
use crate::machine::error::MachineError;
use crate::memory::address_space::AddressSpace;
use crate::memory::dma::Dma;
use crate::sys::eventfd;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::function::{VfioFunction, expected};

/// Gives a device back to the host while the VM runs.
pub(super) struct Release {
    pub space: Arc<AddressSpace>,
    pub dma: Option<Arc<Dma>>,
    /// The number of open devices that have not been given back to the host.
    pub in_use: Arc<AtomicUsize>,
}

impl Release {
    /// Closes the device of `function`. Before the last device closes, the guest's memory is
    /// unmapped for DMA.
    fn release(&self, function: &VfioFunction) {
        function.disconnect_and_wait();
        if self.in_use.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(dma) = &self.dma
        {
            self.space.unsubscribe(&**dma);
        }
        // RAM must not be mapped while a device closes, because the device's container may close
        // too.
        match &self.dma {
            Some(dma) => dma.between_maps(|| function.release()),
            None => function.release(),
        }
    }
}

/// Listens to VFIO's error and request interrupts of a device (Linux, include/uapi/linux/vfio.h,
/// VFIO_PCI_ERR_IRQ_INDEX and VFIO_PCI_REQ_IRQ_INDEX). Returns the eventfds that VFIO signals.
///
/// # Errors
/// The host has no descriptors left, or the device refuses an eventfd.
pub(super) fn watch(
    thread: &EventThread,
    device: &SharedDevice,
    function: &Arc<VfioFunction>,
    release: Release,
) -> Result<Vec<EventFd>, MachineError> {
    let failed = Arc::downgrade(function);
    let on_error = move || {
        if let Some(function) = failed.upgrade()
            && function.disconnect()
        {
            let loss = Code::DeviceFailed.loss(
                "removed from the guest, which goes on",
                "the device has failed",
            );
            let hint = "find the error with `dmesg | grep -i aer`; a new run resets the device";
            degraded::tell(loss.of(function.name()).hint(hint));
        }
    };
    let name = device.name().to_string();
    let wanted = Arc::downgrade(function);
    // The host repeats its request until it has the device.
    let requested = AtomicBool::new(false);
    let on_request =
        move || {
            if requested.swap(true, Ordering::Relaxed) {
                return;
            }
            let loss = Code::DeviceReturned.loss(
                "removed from the guest, which goes on",
                "the host asks for the device",
            );
            degraded::tell(loss.of(&name).hint(
                "nothing, if you have unbound or removed the device; a new run takes it again",
            ));
            if let Some(function) = wanted.upgrade() {
                release.release(&function);
            }
        };
    expected::tell_missing_events(&**device, function.is_express());
    let error = watch_one(thread, device, Irq::Error, on_error)?;
    let request = watch_one(thread, device, Irq::Request, on_request)?;
    Ok(error.into_iter().chain(request).collect())
}

/// Calls `handler` when VFIO signals `irq`; `None` if the device has no such interrupt.
fn watch_one(
    thread: &EventThread,
    device: &SharedDevice,
    irq: Irq,
    handler: impl Fn() + Send + Sync + 'static,
) -> Result<Option<EventFd>, MachineError> {
    if device.irq(irq).is_none() {
        return Ok(None);
    }
    let event =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(MachineError::Descriptors)?;
    // The thread listens afterwards. An event that comes before stays in the eventfd.
    match device.set_events(irq, 0, &[Some(eventfd::borrow(&event))]) {
        // A driver that names the event and does not have it, as the kernel's sample mtty.
        Err(DeviceError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENOTTY) => {
            expected::tell_missing_event(device.name(), irq);
            return Ok(None);
        }
        outcome => outcome?,
    }
    thread
        .watch(&event, handler)
        .map_err(MachineError::Descriptors)?;
    Ok(Some(event))
}
