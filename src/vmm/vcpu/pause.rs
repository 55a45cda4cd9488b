//! Pausing and stopping vCPUs: where their threads wait while the guest is paused.
//!
//! The exit loop reads one flag before each KVM_RUN, for a pause and for the end alike, so a pause
//! costs nothing while nobody asks for one. A thread that leaves the loop for a pause keeps its
//! vCPU as the last exit left it: the next KVM_RUN completes the exit's instruction.
//!
//! A pause lasts until it is ended. If the guest is reset meanwhile, the vCPUs of its next boot
//! wait before their first instruction.
//!
//! A freeze stops the other vCPUs while one waits for a device for long
//! ([`super::devices_open::DevicesOpen`]). It ends after that wait, once all have come here: each
//! tells its guest of the time that was lost before any goes on.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::sync::atomic::AtomicBool;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::vcpu::vcpu_thread::VcpuThread;

/// How long a vCPU may take to leave an exit. A reset of a device that its vCPU waits for may take
/// longer (docs/rules.md, "What holds a vCPU up").
const PATIENCE: Duration = Duration::from_secs(10);
/// The time after which the signal is sent again: the first is lost if it arrives just before
/// KVM_RUN.
const KICK_AGAIN: Duration = Duration::from_micros(200);
/// The same while a freeze ends.
const FREEZE_AGAIN: Duration = Duration::from_millis(100);

/// Why a guest is not paused, or does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    /// It is paused.
    #[error("the guest is paused already")]
    AlreadyPaused,
    /// It is not paused.
    #[error("the guest is not paused")]
    NotPaused,
    /// vCPUs wait in an exit.
    #[error("the guest is not paused: {0} of its vCPUs still wait for a device after 10 seconds")]
    Busy(usize),
    /// Somebody ended the pause before all vCPUs had stopped.
    #[error("the guest is not paused: the pause was ended meanwhile")]
    Ended,
}

/// Where the threads of all vCPUs wait.
#[derive(Default)]
pub struct PausePoint {
    /// Whether the vCPUs must leave their exit loops.
    leave: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    paused: bool,
    /// Whether all vCPUs have stopped for the pause. A thread that joins later finds the flag of
    /// the exit loop set, so it does not run either.
    stopped: bool,
    stopping: bool,
    freeze: Freeze,
    threads: Vec<VcpuThread>,
    /// Threads that wait for the end of the pause or of the freeze.
    waiting: usize,
}

/// Whether the vCPUs are frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Freeze {
    #[default]
    None,
    /// Until the wait for a device is over.
    Frozen,
    /// Until all vCPUs have left their exits.
    Ending,
}

impl State {
    fn running(&self) -> usize {
        self.threads.len().saturating_sub(self.waiting)
    }

    /// Ends a freeze for whose end nobody is waited for any more.
    fn end_freeze(&mut self) {
        if self.freeze == Freeze::Ending && self.running() == 0 {
            self.freeze = Freeze::None;
        }
    }
}

/// The calling thread's membership; dropping it ends the membership.
pub struct Membership<'a>(&'a PausePoint);

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        let this = VcpuThread::this();
        self.0
            .change(|state| state.threads.retain(|thread| *thread != this));
    }
}

impl PausePoint {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.update(&mut state);
    }

    /// Sets the flag of the exit loop, and wakes those who wait.
    fn update(&self, state: &mut State) {
        state.end_freeze();
        let leave = state.paused || state.stopping || state.freeze != Freeze::None;
        self.leave.store(leave, Ordering::Release);
        self.changed.notify_all();
    }

    /// The flag that the exit loop reads.
    pub fn leave(&self) -> &AtomicBool {
        &self.leave
    }

    /// Makes the calling thread one of the vCPUs' threads, which a pause waits for.
    pub fn join(&self) -> Membership<'_> {
        self.lock().threads.push(VcpuThread::this());
        Membership(self)
    }

    /// Waits until the pause and the freeze are over; returns `false` if the vCPUs are being
    /// stopped. To be called by a vCPU's thread that has left its loop.
    ///
    /// While a freeze ends, those that wait here interrupt the others again: nobody else does once
    /// the devices are open.
    pub fn wait(&self) -> bool {
        let mut state = self.lock();
        state.waiting += 1;
        self.update(&mut state);
        while (state.paused || state.freeze != Freeze::None) && !state.stopping {
            if state.freeze != Freeze::Ending {
                let wait = self.changed.wait(state);
                state = wait.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let wait = self.changed.wait_timeout(state, FREEZE_AGAIN);
            let (again, time) = wait.unwrap_or_else(PoisonError::into_inner);
            if time.timed_out() {
                again.threads.iter().for_each(VcpuThread::kick);
            }
            state = again;
        }
        state.waiting -= 1;
        !state.stopping
    }

    /// The vCPUs are about to start. A freeze was that of the boot before.
    pub fn begin(&self) {
        self.change(|state| (state.stopping, state.freeze) = (false, Freeze::None));
    }

    /// Freezes the vCPUs until [`PausePoint::thaw`], because the calling one waits for a device.
    /// Does not wait for them. To be called again from time to time: a signal that arrives just
    /// before KVM_RUN is lost.
    pub fn freeze(&self) {
        self.change(|state| state.freeze = Freeze::Frozen);
        let state = self.lock();
        if state.running() > 1 {
            state.threads.iter().for_each(VcpuThread::kick);
        }
    }

    /// Ends a freeze, once each vCPU has come here. Does not wait for that.
    pub fn thaw(&self) {
        self.change(|state| {
            if state.freeze == Freeze::Frozen {
                state.freeze = Freeze::Ending;
            }
        });
    }

    /// The vCPUs must stop, paused or not. The caller interrupts their threads.
    pub fn stop(&self) {
        self.change(|state| state.stopping = true);
    }

    /// Whether no vCPU runs because of a pause.
    pub fn is_paused(&self) -> bool {
        let state = self.lock();
        state.paused && state.stopped
    }

    /// Pauses the guest: after this, no vCPU executes an instruction until [`PausePoint::resume`].
    ///
    /// # Errors
    /// The guest is paused already, or a vCPU does not leave an exit in time; the others go on
    /// then.
    pub fn pause(&self) -> Result<(), PauseError> {
        if self.lock().paused {
            return Err(PauseError::AlreadyPaused);
        }
        self.change(|state| (state.paused, state.stopped) = (true, false));
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while state.paused && state.running() > 0 {
            if Instant::now() >= end {
                let running = state.running();
                drop(state);
                self.change(|state| state.paused = false);
                return Err(PauseError::Busy(running));
            }
            for thread in &state.threads {
                // A thread in the list has not ended, so the signal reaches it.
                thread.kick();
            }
            let wait = self.changed.wait_timeout(state, KICK_AGAIN);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stopped = true;
        match state.paused {
            true => Ok(()),
            false => Err(PauseError::Ended),
        }
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// The guest is not paused.
    pub fn resume(&self) -> Result<(), PauseError> {
        if !self.lock().paused {
            return Err(PauseError::NotPaused);
        }
        self.change(|state| state.paused = false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use rustix::time::Timespec;
    use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

    use super::*;

    const LONG: Timespec = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };

    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    /// A thread that counts, as a vCPU executes instructions.
    fn count(point: &PausePoint, counter: &AtomicU64) {
        let _member = point.join();
        loop {
            while !point.leave().load(Ordering::Acquire) {
                counter.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
            if !point.wait() {
                return;
            }
        }
    }

    fn counts(counter: &AtomicU64) -> bool {
        let before = counter.load(Ordering::Relaxed);
        let end = Instant::now() + Duration::from_secs(10);
        while counter.load(Ordering::Relaxed) == before {
            if Instant::now() >= end {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    #[test]
    fn nothing_runs_during_a_pause() {
        register_signal_handler(SIGRTMIN(), nothing).unwrap();
        let (point, counters) = (PausePoint::default(), [const { AtomicU64::new(0) }; 3]);
        let values = || counters.each_ref().map(|c| c.load(Ordering::Relaxed));
        thread::scope(|scope| {
            for counter in &counters {
                scope.spawn(|| count(&point, counter));
            }
            assert!(counters.iter().all(counts));
            assert_eq!(point.resume(), Err(PauseError::NotPaused));
            for _ in 0..20 {
                point.pause().unwrap();
                assert!(point.is_paused());
                let before = values();
                thread::sleep(Duration::from_millis(2));
                assert_eq!(values(), before);
                assert_eq!(point.pause(), Err(PauseError::AlreadyPaused));
                point.resume().unwrap();
                assert!(!point.is_paused() && counters.iter().all(counts));
            }
            // The end comes through a pause, and a pause outlasts it.
            point.pause().unwrap();
            point.stop();
        });
        assert!(point.is_paused());
        point.begin();
        assert!(point.leave().load(Ordering::Acquire));
        point.resume().unwrap();
        assert!(!point.leave().load(Ordering::Acquire));
    }

    /// The signal of a freeze comes just before a thread sleeps as in KVM_RUN, and the devices are
    /// open at once.
    #[test]
    fn a_freeze_ends_although_its_signal_is_lost() {
        register_signal_handler(SIGRTMIN(), nothing).unwrap();
        let point = PausePoint::default();
        let (joined, frozen) = (Barrier::new(2), Barrier::new(2));
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _member = point.join();
                joined.wait();
                frozen.wait();
                // A signal ends the sleep; `poll` is never begun again (signal(7)).
                let mut none = [];
                let _ = rustix::event::poll(&mut none, Some(&LONG));
                assert!(point.wait());
            });
            let _member = point.join();
            joined.wait();
            point.freeze();
            point.thaw();
            frozen.wait();
            assert!(point.wait());
        });
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn threads_that_have_not_begun_do_not_run_in_a_pause() {
        let (point, counter) = (PausePoint::default(), AtomicU64::new(0));
        point.pause().unwrap();
        thread::scope(|scope| {
            let member = point.join();
            assert!(point.is_paused(), "a thread that is about to wait");
            drop(member);
            scope.spawn(|| count(&point, &counter));
            thread::sleep(Duration::from_millis(20));
            assert_eq!(counter.load(Ordering::Relaxed), 0);
            point.resume().unwrap();
            assert!(counts(&counter));
            point.stop();
        });
    }
}
