//! The end of a device in a running guest: the device has failed, it has gone, or the host asks for
//! it. The guest reads ones afterwards, as where no device is, and goes on.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use crate::log::degraded::{self, Code};
use crate::vfio::device::Device;
use crate::vfio::function::{State, VfioFunction};

/// The hint for a device that has gone.
const LOOK: &str = "find the reason with `dmesg | tail`; a new run opens the device again";

impl VfioFunction {
    /// Disconnects the guest from a device that has failed or that the host asks for. From now on
    /// the guest reads all ones, as where no device is, and goes on running. Returns whether the
    /// function was connected.
    pub fn disconnect(&self) -> bool {
        self.disconnect_if(|_| true)
    }

    /// Notes that the host has asked for the device. Returns whether this is its first request: the
    /// host repeats the request until it has the device.
    pub fn host_asks(&self) -> bool {
        !self.wanted.swap(true, Ordering::Relaxed)
    }

    /// Whether the host has asked for the device.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Whether the guest has been disconnected from the device.
    pub fn is_disconnected(&self) -> bool {
        !self.lock().connected
    }

    /// Disconnects, and waits for the end of a slow write. A call that turns interrupts off would
    /// wait for that in the kernel, with the function's lock.
    pub fn disconnect_and_wait(&self) {
        self.disconnect();
        drop(self.without_slow_write());
    }

    /// Waits for the end of a slow write.
    pub(super) fn without_slow_write(&self) -> MutexGuard<'_, State> {
        let state = self.slow_write_ended.wait_while(self.lock(), |s| s.away);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Disconnects, and closes the device, which gives the device back to the host.
    pub fn release(&self) {
        self.disconnect();
        self.close();
    }

    /// Closes a device that is quiet.
    pub fn close(&self) {
        let mut state = self.without_slow_write();
        state.interrupts.release();
        state.unused_vectors.stop();
        // A mapped page keeps the device's file open.
        state.decode.release();
        // The kernel resets a device that is closed: no vCPU waits for that.
        drop(state);
        self.connection.close();
    }

    /// Answers a failed attempt of KVM to get the page at a guest-physical address. If one of the
    /// BARs is mapped at the address, disconnects and returns `true`.
    pub fn disconnect_if_mapped_at(&self, address: u64) -> bool {
        self.disconnect_gone(|state| state.decode.area_is_at(address))
    }

    /// Answers a failed attempt of KVM to get an unknown page. The page may be this device's if
    /// VFIO no longer hands out the device's pages: then disconnects and returns `true`.
    pub fn disconnect_if_unmappable(&self) -> bool {
        self.disconnect_gone(|state| {
            let pmcsr = self.power.pmcsr();
            let mapped = state.reachable() && state.decode.any_area_is_mapped();
            mapped && !self.connection.decodes_memory(pmcsr)
        })
    }

    /// Answers an access that left KVM and that the device has refused. If the access is to a
    /// mapped area, KVM could not get the page either: disconnects and returns `true`.
    pub(super) fn disconnect_if_unreadable(
        &self,
        device: &dyn Device,
        bar: usize,
        offset: u64,
    ) -> bool {
        self.disconnect_gone(|state| {
            // The lock keeps other vCPUs from switching decoding off meanwhile, and the
            // caller's access keeps them from a slow write.
            state.decode.maps(bar, offset) && device.read(bar as u32, offset, &mut [0]).is_err()
        })
    }

    fn disconnect_gone(&self, condition: impl FnOnce(&State) -> bool) -> bool {
        let now = self.disconnect_if(condition);
        if now {
            let loss = Code::DeviceGone.loss(
                "removed from the guest, which goes on",
                "the host no longer gives out the pages of the device's BARs",
            );
            degraded::tell(loss.of(self.name()).hint(LOOK));
        }
        now
    }

    fn disconnect_if(&self, condition: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.lock();
        let now = state.connected && condition(&state);
        if now {
            // The kernel would let this thread wait for the end of a slow write. The vCPU that
            // makes the write quiesces the device then.
            if !state.away {
                self.quiesce_locked(&mut state);
            }
            state.connected = false;
        }
        now
    }
}
