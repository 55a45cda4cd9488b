//! The way of a device's interrupts through the host's kernel, by the kernel's own events: VFIO's
//! handler runs, KVM gets the message, and KVM injects the vector into the guest.

use serde::{Deserialize, Serialize};

use crate::stats::latency::Latencies;

/// A step on the way of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// VFIO's handler runs (`irq_handler_entry`).
    Handler,
    /// KVM gets a message with a vector (`kvm_msi_set_irq`), of this virtual machine or of another.
    Message(u64),
    /// KVM injects a vector into this virtual machine (`kvm_inj_virq`).
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
    /// The median time from the handler to KVM's message: of the interrupts that are followed to
    /// their injection or, if there are none, of the first message after each run of the handler.
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
    /// Those of steps in the order of their times. An interrupt is followed if KVM gets its message
    /// and injects the vector before the handler runs again. The messages of other virtual machines
    /// are among the steps, and their vectors are not injected into this one.
    pub(super) fn of(steps: &[(u64, Step)]) -> Self {
        let (mut messages, mut injections) = (Latencies::default(), Latencies::default());
        // The first message after each run of the handler, whosever it is.
        let mut any = Latencies::default();
        let mut handled = 0;
        // When the handler ran, and the messages since, which are few.
        let mut now: Option<(u64, Vec<(u64, u64)>)> = None;
        for (time, step) in steps {
            match (*step, &mut now) {
                (Step::Handler, _) => {
                    handled += 1;
                    now = Some((*time, Vec::new()));
                }
                (Step::Message(vector), Some((began, since))) => {
                    if since.is_empty() {
                        any.add(time - *began);
                    }
                    since.push((vector, *time));
                }
                (Step::Injected(vector), Some((began, since))) => {
                    let mut since = since.iter();
                    if let Some((_, message)) = since.find(|(of, _)| *of == vector) {
                        messages.add(message - *began);
                        injections.add(time - *began);
                        now = None;
                    }
                }
                (_, None) => {}
            }
        }
        if injections.is_empty() {
            messages = any;
        }
        let us = |times: &Latencies| times.median().map(|ns| ns as f64 / 1000.0);
        let why = match (handled, messages.len(), injections.len()) {
            (0, ..) => Some(
                "VFIO's handler of a message has not run: the device has sent no message, has an \
                 interrupt pin, or its messages go to the guest without the host (posted \
                 interrupts)",
            ),
            (_, 0, _) => Some(
                "VFIO's handler has run, and KVM has got no message before the handler's next run",
            ),
            (.., 0) => Some(
                "KVM has injected none of the messages: it posts them, which makes no exit; the \
                 time to the message holds if no other virtual machine has run meanwhile",
            ),
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

    /// Another virtual machine gets messages between the handler and this one's message.
    #[test]
    fn a_message_of_another_machine_is_none_of_this_one() {
        let steps = [
            (1000, Step::Handler),
            (1100, Step::Message(50)),
            (1400, Step::Message(33)),
            (1500, Step::Message(33)),
            (2000, Step::Injected(33)),
            (3000, Step::Handler),
            (3001, Step::Message(50)),
        ];
        let all = Interrupts::of(&steps);
        assert_eq!(
            (all.handled, all.histogram.as_slice()),
            (2, &[(1000, 1)][..])
        );
        assert_eq!((all.message_us, all.injected_us), (Some(0.4), Some(1.0)));
    }

    #[test]
    fn what_is_missing_is_told() {
        let why = |steps: &[(u64, Step)]| Interrupts::of(steps).why.unwrap();
        let none = why(&[(1, Step::Injected(33))]);
        for word in ["no message", "pin", "posted"] {
            assert!(none.contains(word), "{none}");
        }
        assert!(why(&[(1, Step::Handler)]).contains("KVM has got no message"));
        let posted = [(1, Step::Handler), (101, Step::Message(33))];
        assert!(why(&posted).contains("no other virtual machine"));
        assert_eq!(Interrupts::of(&posted).message_us, Some(0.1));
    }
}
