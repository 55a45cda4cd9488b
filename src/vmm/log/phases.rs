//! The phases of a start: spans of `tracing`, which are collected with `--stats`.
//!
//! Code that does a part of the start opens a span with [`phase!`](crate::phase). Without a
//! collector, opening a span costs one load. Any thread may open a span, so phases may overlap.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::time::ClockId;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Subscriber, warn};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::sys;

/// The target of the spans. The log does not show this target.
pub const TARGET: &str = "mini_vmm::phase";
/// The phase at the end of the start: a vCPU is about to enter the guest for the first time.
pub const FIRST_RUN: &str = "first_run";
/// The most phases that are kept, more than a start with a full bus has.
const MOST: usize = 1024;

/// Opens the span of a phase, with the host's name of its device, if any. The phase lasts until the
/// span is dropped. A span that is dropped at once marks a moment. A span is not entered, because
/// an entered span would not end before the spans that began inside of it.
#[macro_export]
macro_rules! phase {
    ($name:expr) => {
        ::tracing::info_span!(target: $crate::log::phases::TARGET, $name)
    };
    ($name:expr, $device:expr) => {
        ::tracing::info_span!(target: $crate::log::phases::TARGET, $name, device = %$device)
    };
}

/// The start of this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begun: Instant,
    /// CLOCK_MONOTONIC at that moment, in nanoseconds: comparable between processes.
    pub monotonic_ns: u64,
    /// CPU time that the process had used until that moment, in microseconds: a lower bound of the
    /// cost of `fork`, `execve` and the run-time library. The kernel reports the time of the start
    /// only in units of 10 ms.
    pub cpu_before_us: u64,
}

impl Clock {
    /// Reads the clocks. Must be called first in `main`.
    pub fn start() -> Self {
        Self {
            begun: Instant::now(),
            monotonic_ns: sys::clock_ns(ClockId::Monotonic),
            cpu_before_us: sys::clock_ns(ClockId::ProcessCPUTime) / 1000,
        }
    }

    /// Microseconds from the start until `moment`.
    pub fn at(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.begun).as_micros() as u64
    }
}

/// A phase that has ended. Times are microseconds from the first line of `main`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// The name of the phase.
    pub name: &'static str,
    /// The host's name of its device.
    pub device: Option<String>,
    /// When the phase began.
    pub start_us: u64,
    /// When the phase ended.
    pub end_us: u64,
}

/// Collects the phases of the first boot, as a layer of `tracing`. Some of them end after the guest
/// has been entered.
#[derive(Clone)]
pub struct Phases {
    clock: Clock,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whether the guest runs. From then on, a phase that is already known, by its name and its
    /// device, belongs to a later boot, and is not kept.
    over: AtomicBool,
    phases: Mutex<Vec<Phase>>,
}

impl Phases {
    /// Makes an empty collection.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            shared: Arc::default(),
        }
    }

    /// The start of the process.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    fn has(&self, name: &str, device: Option<&str>) -> bool {
        let phases = self.shared.phases.lock();
        let phases = phases.unwrap_or_else(PoisonError::into_inner);
        let mut phases = phases.iter();
        phases.any(|phase| phase.name == name && phase.device.as_deref() == device)
    }

    /// The phases that have ended, in the order of their beginnings.
    pub fn list(&self) -> Vec<Phase> {
        let phases = self.shared.phases.lock();
        let mut list = phases.unwrap_or_else(PoisonError::into_inner).clone();
        list.sort_by_key(|phase| (phase.start_us, phase.end_us));
        list
    }
}

/// The data of an open span.
struct Open {
    device: Option<String>,
    start_us: u64,
}

impl Visit for Open {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "device" {
            self.device = Some(format!("{value:?}"));
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Phases {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut open = Open {
            device: None,
            start_us: self.clock.at(Instant::now()),
        };
        attributes.record(&mut open);
        let name = attributes.metadata().name();
        if self.shared.over.load(Ordering::Relaxed) && self.has(name, open.device.as_deref()) {
            return;
        }
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(open);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let end_us = self.clock.at(Instant::now());
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(Open { device, start_us }) = span.extensions_mut().remove() else {
            return;
        };
        let name = span.name();
        if name == FIRST_RUN {
            self.shared.over.store(true, Ordering::Relaxed);
        }
        let phase = Phase {
            name,
            device,
            start_us,
            end_us,
        };
        let phases = self.shared.phases.lock();
        let mut phases = phases.unwrap_or_else(PoisonError::into_inner);
        if phases.len() < MOST {
            phases.push(phase);
        } else {
            drop(phases);
            warn!("the start has more than {MOST} phases; the others are not reported");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn phases_of_all_threads_up_to_the_first_run() {
        let phases = Phases::new(Clock::start());
        let subscriber = tracing_subscriber::registry().with(phases.clone());
        let dispatch = tracing::Dispatch::new(subscriber);
        let work = || {
            let _phase = phase!("open_device", "0000:00:05.0");
            thread::sleep(std::time::Duration::from_millis(2));
        };
        tracing::dispatcher::with_default(&dispatch, || {
            let _outer = phase!("outer");
            thread::scope(|scope| {
                scope.spawn(|| tracing::dispatcher::with_default(&dispatch, work));
            });
        });
        tracing::dispatcher::with_default(&dispatch, || {
            drop(phase!(FIRST_RUN));
            let beside = phase!("beside the guest");
            drop(phase!("inside of it"));
            drop(beside);
            // The first is known, the second is another device of the first boot.
            drop(phase!("open_device", "0000:00:05.0"));
            drop(phase!("open_device", "0000:00:06.0"));
            drop(phase!("outer"));
            drop(phase!(FIRST_RUN));
        });
        let list = phases.list();
        let names: Vec<_> = list.iter().map(|p| p.name).collect();
        assert_eq!(
            names,
            [
                "outer",
                "open_device",
                FIRST_RUN,
                "beside the guest",
                "inside of it",
                "open_device"
            ]
        );
        assert_eq!(list[5].device.as_deref(), Some("0000:00:06.0"));
        assert_eq!(list[1].device.as_deref(), Some("0000:00:05.0"));
        assert_eq!(list[0].device, None);
        assert!(list[1].end_us - list[1].start_us >= 2000);
        assert!(list[0].start_us <= list[1].start_us && list[1].end_us <= list[0].end_us);
    }
}
