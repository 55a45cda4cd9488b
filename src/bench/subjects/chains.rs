//! The way of a device's interrupts through the host's kernel, by the kernel's own events: VFIO's
//! handler runs, KVM gets the message, and KVM injects the vector into the guest.

use serde::{Deserialize, Serialize};

use crate::stats::latency::Latencies;

/// A step on the way of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// VFIO's handler runs (`irq_handler_entry`).
    Handler,
    /// KVM gets a message with a vector (`kvm_msi_set_irq`).
    Message(u64),
    /// KVM injects a vector (`kvm_inj_virq`).
    Injected(u64),
}

/// The interrupts of a subject, in a traced pass of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interrupts {
    /// The subject's index.
    pub subject: usize,
    /// How often VFIO's handler ran for the device.
    pub handled: u64,
    /// The median time from the handler to KVM's message.
    pub message_us: Option<f64>,
    /// The median time from the handler to the injection.
    pub injected_us: Option<f64>,
    /// The times from the handler to the injection in nanoseconds, to two digits, each with the
    /// number of interrupts.
    pub histogram: Vec<(u64, u64)>,
    /// Why there are no times.
    pub why: Option<String>,
}

impl Interrupts {
    /// Those of steps in the order of their times. An interrupt counts if KVM gets its message and
    /// injects the vector before the handler runs again.
    pub(super) fn of(steps: &[(u64, Step)]) -> Self {
        let (mut messages, mut injections) = (Latencies::default(), Latencies::default());
        let mut handled = 0;
        // When the handler ran, and the vector of the message.
        let mut now: Option<(u64, Option<u64>)> = None;
        for (time, step) in steps {
            match (*step, now) {
                (Step::Handler, _) => {
                    handled += 1;
                    now = Some((*time, None));
                }
                (Step::Message(vector), Some((began, None))) => {
                    messages.add(time - began);
                    now = Some((began, Some(vector)));
                }
                (Step::Injected(vector), Some((began, Some(of_message))))
                    if vector == of_message =>
                {
                    injections.add(time - began);
                    now = None;
                }
                _ => {}
            }
        }
        let us = |times: &Latencies| times.median().map(|ns| ns as f64 / 1000.0);
        let why = match (handled, messages.len(), injections.len()) {
            (0, ..) => Some("the device has sent no message while the events were recorded"),
            (_, 0, _) => Some(
                "KVM has got no message in the kernel: the device has an interrupt pin, or its \
                 interrupts are posted without the host",
            ),
            (.., 0) => {
                Some("KVM has injected none: the interrupts are posted, which makes no exit")
            }
            _ => None,
        };
        Self {
            subject: 0,
            handled,
            message_us: us(&messages),
            injected_us: us(&injections),
            histogram: injections.coarse(),
            why: why.map(str::to_owned),
        }
    }

    /// No times, for this reason.
    pub(super) fn none(why: impl Into<String>) -> Self {
        Self {
            why: Some(why.into()),
            ..Self::default()
        }
    }

    /// The times from the handler to the injection.
    pub fn times(&self) -> Latencies {
        let mut times = Latencies::default();
        for (time, count) in &self.histogram {
            times.add_many(*time, *count);
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_counts_if_its_own_vector_is_injected() {
        let steps = [
            (900, Step::Injected(33)),
            (1000, Step::Handler),
            (1400, Step::Message(33)),
            (1500, Step::Injected(236)),
            (2000, Step::Injected(33)),
            // The handler runs again before the injection.
            (5000, Step::Handler),
            (5600, Step::Message(33)),
            (6000, Step::Handler),
            (6400, Step::Message(33)),
            (9000, Step::Injected(33)),
        ];
        let all = Interrupts::of(&steps);
        assert_eq!((all.handled, all.times().len()), (3, 2));
        assert_eq!(all.histogram, [(1000, 1), (3000, 1)]);
        assert_eq!((all.message_us, all.why), (Some(0.4), None));
    }

    #[test]
    fn what_is_missing_is_told() {
        let why = |steps: &[(u64, Step)]| Interrupts::of(steps).why.unwrap();
        assert!(why(&[(1, Step::Injected(33))]).contains("no message"));
        assert!(why(&[(1, Step::Handler)]).contains("pin"));
        assert!(why(&[(1, Step::Handler), (2, Step::Message(33))]).contains("posted"));
    }
}
