//! The kernel's events, read and decoded.

use std::collections::HashMap;

use crate::decode::value::{Field, Value};
use crate::event::Happened;
use crate::kernel::format::Format;
use crate::kernel::instance::{Instance, InstanceError, Wanted};
use crate::kernel::page;

/// The names of the calls' events.
const ENTER: &str = "sys_enter";
const EXIT: &str = "sys_exit";
/// Records that were lost, in the stream.
pub const LOST: &str = "lost";

/// The calls whose times are of use: those that the tracer shows (asm/unistd_64.h). The filter
/// keeps the rest of the host out of the buffer.
const CALLS: &str = "id == 0 || id == 1 || id == 2 || id == 3 || id == 9 || id == 11 || id == 16 \
    || id == 17 || id == 18 || id == 25 || id == 28 || id == 32 || id == 33 || id == 72 \
    || id == 257 || id == 284 || id == 290 || id == 292 || id == 437 || id == 438";

const fn kvm(name: &'static str) -> Wanted {
    Wanted {
        system: "kvm",
        name,
        filter: None,
        optional: false,
    }
}

const fn other(system: &'static str, name: &'static str, filter: &'static str) -> Wanted {
    Wanted {
        system,
        name,
        filter: if filter.is_empty() {
            None
        } else {
            Some(filter)
        },
        optional: false,
    }
}

const fn optional(name: &'static str) -> Wanted {
    Wanted {
        optional: true,
        ..kvm(name)
    }
}

/// What is recorded. VFIO has no tracepoint; its handlers' names begin with its own
/// (drivers/vfio/pci/vfio_pci_intrs.c).
pub const WANTED: [Wanted; 14] = [
    other("raw_syscalls", ENTER, CALLS),
    other("raw_syscalls", EXIT, CALLS),
    other("irq", "irq_handler_entry", "name ~ \"vfio*\""),
    kvm("kvm_msi_set_irq"),
    kvm("kvm_set_irq"),
    kvm("kvm_apic_accept_irq"),
    kvm("kvm_inj_virq"),
    kvm("kvm_eoi"),
    kvm("kvm_exit"),
    other("iommu", "map", ""),
    other("iommu", "unmap", ""),
    // Posted interrupts, by Intel's and AMD's ways.
    optional("kvm_pi_irte_update"),
    optional("kvm_apicv_accept_irq"),
    optional("kvm_avic_ga_log"),
];

/// A decoded record.
#[derive(Debug)]
pub enum Record {
    /// A thread enters a call.
    Enter,
    /// A thread leaves a call.
    Exit,
    /// Something else.
    Happened(Happened),
}

/// The events of an instance.
#[derive(Debug)]
pub struct Source {
    instance: Instance,
    formats: HashMap<u16, (&'static str, Format)>,
}

impl Source {
    /// Records from now on.
    ///
    /// # Errors
    /// There is no tracefs, or the tracer may not use it.
    pub fn new() -> Result<Self, InstanceError> {
        Instance::new(&WANTED).map(Self::of)
    }

    /// Of an instance.
    pub fn of(mut instance: Instance) -> Self {
        let formats = std::mem::take(&mut instance.formats).into_iter();
        let formats = formats.map(|(name, format)| (format.id, (name, format)));
        Self {
            formats: formats.collect(),
            instance,
        }
    }

    /// The events that this kernel has not.
    pub fn missing(&self) -> &[String] {
        &self.instance.missing
    }

    /// Reads all that was recorded: `each` gets time, thread and record.
    pub fn read(&mut self, mut each: impl FnMut(u64, i32, Record)) {
        let Self { instance, formats } = self;
        let layout = instance.layout;
        instance.read(|cpu, bytes| {
            let page = page::records(&layout, bytes);
            if let Some(count) = page.lost {
                let first = page.records.first().map_or(0, |(time, _)| *time);
                each(first, 0, lost(cpu, count));
            }
            for (time, bytes) in page.records {
                if let Some((tid, record)) = decode(formats, cpu, bytes) {
                    each(time, tid, record);
                }
            }
        });
    }

    /// Records that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.instance.lost()
    }
}

fn lost(cpu: u32, count: u64) -> Record {
    let field = Field {
        name: "records".into(),
        value: Value::Decimal(count),
    };
    Record::Happened(Happened {
        name: LOST,
        cpu,
        fields: vec![field],
    })
}

fn decode(
    formats: &HashMap<u16, (&'static str, Format)>,
    cpu: u32,
    bytes: &[u8],
) -> Option<(i32, Record)> {
    let id = u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?);
    let (name, format) = formats.get(&id)?;
    let tid = format.number(bytes, "common_pid")? as i32;
    let record = match *name {
        ENTER => Record::Enter,
        EXIT => Record::Exit,
        name => {
            let mut fields = format.fields(bytes);
            if let Some(reason) = format.reason(bytes) {
                let value = Value::Text(reason.into());
                let name = "reason".into();
                fields.insert(0, Field { name, value });
            }
            if name == "kvm_msi_set_irq"
                && let Some(data) = format.number(bytes, "data")
            {
                // The message's vector (Intel SDM, volume 3, 12.11.2).
                let value = Value::Decimal(data & 0xff);
                let name = "vector".into();
                fields.insert(0, Field { name, value });
            }
            Record::Happened(Happened { name, cpu, fields })
        }
    };
    Some((tid, record))
}
