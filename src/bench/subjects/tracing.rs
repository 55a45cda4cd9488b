//! A traced pass: the kernel records its events meanwhile (`mini-vmm trace --kernel` has the same).
//! No time of a turn comes from it.

use trace::decode::value::Value;
use trace::event::Happened;
use trace::kernel::instance::{Instance, InstanceError, Wanted};
use trace::kernel::source::{Record, Source};

use crate::error::Result;
use crate::subjects::affinity;
use crate::subjects::chains::{Interrupts, Step};
use crate::subjects::child::Vmm;
use crate::subjects::watch::Watch;
use crate::work::task::Message;

const HANDLER: &str = "irq_handler_entry";
const MESSAGE: &str = "kvm_msi_set_irq";
const INJECTED: &str = "kvm_inj_virq";

/// Few events, so that the buffers hold a whole pass. VFIO's handlers of messages have its name
/// (drivers/vfio/pci/vfio_pci_intrs.c, `vfio_msi_set_vector_signal`).
const WANTED: [Wanted; 3] = [
    Wanted {
        filter: Some(|| "name ~ \"vfio-msi*\"".into()),
        ..event("irq", HANDLER)
    },
    event("kvm", MESSAGE),
    event("kvm", INJECTED),
];

const fn event(system: &'static str, name: &'static str) -> Wanted {
    Wanted {
        system,
        name,
        filter: None,
        optional: false,
    }
}

/// A recording, and the VMM's threads.
pub(super) struct Tracing {
    source: Source,
    vcpus: Vec<i32>,
}

impl Tracing {
    /// Records from now on.
    pub(super) fn start() -> std::result::Result<Self, InstanceError> {
        Ok(Self {
            source: Source::of(Instance::new(&WANTED)?),
            vcpus: Vec::new(),
        })
    }

    /// What was recorded of the device with this address.
    pub(super) fn end(mut self, address: &str) -> Interrupts {
        self.source.stop();
        let mut steps = Vec::new();
        let vcpus = std::mem::take(&mut self.vcpus);
        self.source.read(
            |thread, _| vcpus.contains(&thread),
            |time, _, record| {
                if let Record::Happened(event) = record
                    && let Some(step) = step(&event, address)
                {
                    steps.push((time, step));
                }
            },
        );
        let lost = self.source.lost();
        if let Err(error) = self.source.remove() {
            return Interrupts::none(error.to_string());
        }
        if lost > 0 {
            return Interrupts::none(format!("the kernel has lost {lost} records"));
        }
        steps.sort_by_key(|(time, _)| *time);
        Interrupts::of(&steps)
    }
}

impl Watch for Tracing {
    fn hear(&mut self, vmm: &Vmm, message: &Message) -> Result<()> {
        if matches!(message, Message::Ready { .. }) {
            self.vcpus = affinity::threads(vmm.pid());
        }
        Ok(())
    }
}

/// The step of an event, if it is one of this device.
fn step(event: &Happened, address: &str) -> Option<Step> {
    let field = |name: &str| {
        let mut fields = event.fields.iter();
        fields.find(|field| field.name == name).map(|f| &f.value)
    };
    let number = |name: &str| match field(name)? {
        Value::Decimal(number) | Value::Hex(number, _) => Some(*number),
        Value::Signed(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    match event.name {
        HANDLER => match field("name")? {
            Value::Text(name) if name.contains(address) => Some(Step::Handler),
            _ => None,
        },
        MESSAGE => number("vector").map(Step::Message),
        // Before Linux 6.2 the field was called `irq`.
        INJECTED => number("vector")
            .or_else(|| number("irq"))
            .map(Step::Injected),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use trace::decode::value::Field;

    use super::*;

    fn happened(name: &'static str, field: &'static str, value: Value) -> Happened {
        let name_of_field = field.into();
        Happened {
            name,
            cpu: 0,
            fields: vec![Field {
                name: name_of_field,
                value,
            }],
        }
    }

    #[test]
    fn only_handlers_of_the_device_are_steps() {
        let text = |name: &str| Value::Text(name.to_owned());
        let of = |event: &Happened| step(event, "0000:00:05.0");
        let mine = happened(HANDLER, "name", text("vfio-msix[0](0000:00:05.0)"));
        let other = happened(HANDLER, "name", text("vfio-msix[0](0000:00:06.0)"));
        assert_eq!((of(&mine), of(&other)), (Some(Step::Handler), None));
        let message = happened(MESSAGE, "vector", Value::Decimal(33));
        assert_eq!(of(&message), Some(Step::Message(33)));
        for field in ["vector", "irq"] {
            let injected = happened(INJECTED, field, Value::Hex(33, 4));
            assert_eq!(of(&injected), Some(Step::Injected(33)));
        }
        assert_eq!(of(&happened("kvm_exit", "vector", Value::Decimal(1))), None);
    }
}
