//! Events of the host's devices: a device has failed, or the host asks for it back.

use std::sync::{Arc, Weak};

use vmm_sys_util::eventfd::EventFd;

use crate::event_thread::EventThread;
use crate::log::degraded::{self, Code};
use crate::machine::error::MachineError;
use crate::sys::eventfd;
use crate::vfio::device::{DeviceError, Irq, SharedDevice};
use crate::vfio::function::{VfioFunction, expected};

/// Hears of the events of devices.
pub(super) trait DeviceListener: Send + Sync {
    /// A device has failed, and is disconnected.
    fn failed(&self, function: &VfioFunction);
    /// The host asks for a device.
    fn wanted(&self, function: &Arc<VfioFunction>);
}

/// An eventfd that VFIO signals, and its watch.
pub(super) struct Watched {
    /// VFIO has a reference of its own; this one is kept as long as the device.
    pub _event: EventFd,
    pub key: u64,
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
    listener: &Weak<dyn DeviceListener>,
) -> Result<Vec<Watched>, MachineError> {
    let failed = Arc::downgrade(function);
    let told = listener.clone();
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
            if let Some(listener) = told.upgrade() {
                listener.failed(&function);
            }
        }
    };
    let wanted = Arc::downgrade(function);
    let listener = listener.clone();
    let on_request = move || {
        if let (Some(function), Some(listener)) = (wanted.upgrade(), listener.upgrade())
            && function.host_asks()
        {
            listener.wanted(&function);
        }
    };
    expected::tell_missing_events(&**device, function.is_express());
    let error = watch_one(thread, device, Irq::Error, on_error)?;
    let request = watch_one(thread, device, Irq::Request, on_request);
    let request = request.inspect_err(|_| {
        // Nobody else knows its key.
        error.iter().for_each(|first| thread.unwatch(first.key));
    })?;
    Ok(error.into_iter().chain(request).collect())
}

/// Calls `handler` when VFIO signals `irq`; `None` if the device has no such interrupt.
fn watch_one(
    thread: &EventThread,
    device: &SharedDevice,
    irq: Irq,
    handler: impl Fn() + Send + Sync + 'static,
) -> Result<Option<Watched>, MachineError> {
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
    let key = thread.watch(&event, handler);
    let key = key.map_err(MachineError::Descriptors)?;
    Ok(Some(Watched { _event: event, key }))
}
