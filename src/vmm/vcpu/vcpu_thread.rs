//! A vCPU's thread, as one that interrupts it knows it.

#[cfg(feature = "models")]
pub use checked::VcpuThread;
#[cfg(not(feature = "models"))]
pub use running::VcpuThread;

#[cfg(not(feature = "models"))]
mod running {
    use vmm_sys_util::signal::{Killable, SIGRTMIN};

    /// A vCPU's thread, which is alive while it is in the list of threads.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct VcpuThread(libc::pthread_t);

    // SAFETY: a VcpuThread is removed from the list by its own thread, under the list's lock, so
    // the handle is valid for each user of the list.
    unsafe impl Killable for VcpuThread {
        fn pthread_handle(&self) -> libc::pthread_t {
            self.0
        }
    }

    impl VcpuThread {
        /// The calling thread.
        pub fn this() -> Self {
            // SAFETY: the call takes nothing and changes nothing.
            Self(unsafe { libc::pthread_self() })
        }

        /// Interrupts KVM_RUN, or another call that sleeps.
        pub fn kick(&self) {
            // The caller sends the signal again, or the thread has left KVM_RUN already.
            let _ = self.kill(SIGRTMIN());
        }
    }
}

/// In a model there is no KVM_RUN to interrupt.
#[cfg(feature = "models")]
mod checked {
    use loom::thread::{self, ThreadId};

    /// A thread of a model.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct VcpuThread(ThreadId);

    impl VcpuThread {
        /// The calling thread.
        pub fn this() -> Self {
            Self(thread::current().id())
        }

        /// Nothing sleeps in the kernel.
        pub fn kick(&self) {}
    }
}
