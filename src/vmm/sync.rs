//! Locks, condition variables and atomics of what several threads wait for.
//!
//! They are the standard library's. With the feature `models`, which only `make models` sets, they
//! are those of the model checker loom: it runs a model in each order in which its threads can go
//! on, and fails if a wait never ends or a check does not hold. So the models (`models.rs`) run the
//! program's own code. Code with these types works in a model alone then.

#[cfg(not(feature = "models"))]
pub use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(feature = "models")]
pub use checked::Condvar;
#[cfg(feature = "models")]
pub use loom::sync::{Mutex, MutexGuard, atomic};

#[cfg(feature = "models")]
mod checked {
    use std::sync::LockResult;
    use std::time::Duration;

    use loom::sync::{self, MutexGuard, WaitTimeoutResult};

    /// loom's condition variable, with the standard library's waits for a condition.
    #[derive(Debug, Default)]
    pub struct Condvar(sync::Condvar);

    impl Condvar {
        /// A condition variable.
        pub fn new() -> Self {
            Self::default()
        }

        /// As of the standard library.
        ///
        /// # Errors
        /// A thread has panicked with the lock.
        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait(guard)
        }

        /// As of the standard library.
        ///
        /// # Errors
        /// A thread has panicked with the lock.
        pub fn wait_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            mut condition: impl FnMut(&mut T) -> bool,
        ) -> LockResult<MutexGuard<'a, T>> {
            while condition(&mut guard) {
                guard = self.0.wait(guard)?;
            }
            Ok(guard)
        }

        /// The same. loom knows no time: the wait ends by a notification alone, so a model shows
        /// that nobody needs the time.
        ///
        /// # Errors
        /// A thread has panicked with the lock.
        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            time: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
            self.0.wait_timeout(guard, time)
        }

        /// As of the standard library.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}
