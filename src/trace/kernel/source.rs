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

/// The calls that the tracer may show. The filter keeps the others out of the buffer.
const CALLS: [i64; 20] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_open,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_ioctl,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_fcntl,
    libc::SYS_openat,
    libc::SYS_eventfd,
    libc::SYS_eventfd2,
    libc::SYS_dup3,
    libc::SYS_openat2,
    libc::SYS_pidfd_getfd,
];

/// Events that happen in the thread that they are about. The others happen in any thread of the
/// host, of which the records of all VMs are kept.
const OF_THREAD: [&str; 7] = [
    ENTER,
    EXIT,
    "kvm_exit",
    "kvm_inj_virq",
    "kvm_eoi",
    "map",
    "unmap",
];

/// The filter of calls: those of [`CALLS`]. The tracer's own reads of the buffer would fill it.
fn calls() -> String {
    let calls: Vec<_> = CALLS.iter().map(|call| format!("id == {call}")).collect();
    let own = std::process::id();
    format!("common_pid != {own} && ({})", calls.join(" || "))
}

const fn event(system: &'static str, name: &'static str) -> Wanted {
    Wanted {
        system,
        name,
        filter: None,
        optional: false,
    }
}

const fn kvm(name: &'static str) -> Wanted {
    event("kvm", name)
}

const fn filtered(system: &'static str, name: &'static str, filter: fn() -> String) -> Wanted {
    Wanted {
        filter: Some(filter),
        ..event(system, name)
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
    filtered("raw_syscalls", ENTER, calls),
    filtered("raw_syscalls", EXIT, calls),
    filtered("irq", "irq_handler_entry", || "name ~ \"vfio*\"".into()),
    kvm("kvm_msi_set_irq"),
    kvm("kvm_set_irq"),
    kvm("kvm_apic_accept_irq"),
    kvm("kvm_inj_virq"),
    kvm("kvm_eoi"),
    kvm("kvm_exit"),
    event("iommu", "map"),
    event("iommu", "unmap"),
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

    /// Reads what was recorded: `each` gets time, thread and record. Of the events that happen in
    /// the thread that they are about, only those of traced threads are decoded. All until the
    /// returned time were read.
    pub fn read(
        &mut self,
        is_traced: impl Fn(i32, u64) -> bool,
        mut each: impl FnMut(u64, i32, Record),
    ) -> u64 {
        let Self { instance, formats } = self;
        let layout = instance.layout;
        instance.read(|cpu, bytes| {
            let page = page::records(&layout, bytes);
            if let Some(count) = page.lost {
                let first = page.records.first().map_or(0, |(time, _)| *time);
                each(first, 0, lost(cpu, count));
            }
            for (time, bytes) in &page.records {
                let Some((tid, name, format)) = head(formats, bytes) else {
                    continue;
                };
                if !OF_THREAD.contains(&name) || is_traced(tid, *time) {
                    each(*time, tid, decode(name, format, cpu, bytes));
                }
            }
            page.records.last().map(|(time, _)| *time)
        })
    }

    /// Records no more.
    pub fn stop(&self) {
        self.instance.stop();
    }

    /// Records that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.instance.lost()
    }

    /// Removes the instance.
    ///
    /// # Errors
    /// The instance is still there.
    pub fn remove(self) -> Result<(), InstanceError> {
        self.instance.remove()
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

/// The thread, name and format of a record.
fn head<'a>(
    formats: &'a HashMap<u16, (&'static str, Format)>,
    bytes: &[u8],
) -> Option<(i32, &'static str, &'a Format)> {
    let id = u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?);
    let (name, format) = formats.get(&id)?;
    Some((format.number(bytes, "common_pid")? as i32, name, format))
}

fn decode(name: &'static str, format: &Format, cpu: u32, bytes: &[u8]) -> Record {
    match name {
        ENTER => return Record::Enter,
        EXIT => return Record::Exit,
        _ => {}
    }
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
