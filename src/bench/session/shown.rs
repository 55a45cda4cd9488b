//! The plan for people.

use std::fmt;
use std::path::Path;

use crate::cross::which;
use crate::session::device::Unit;
use crate::session::link::End;
use crate::session::plan::Plan;
use crate::subjects::list::{Kind, Subject};
use crate::work::task::{PortId, Target};

/// The plan for people.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        device(self, f)?;
        match &self.destroy {
            _ if self.task.target == Target::Function || self.link.is_some() => {}
            None => writeln!(
                f,
                "          opened for reads alone, and exclusively; nothing is written to it"
            )?,
            Some(destroy) => {
                writeln!(
                    f,
                    "          WRITTEN TO, as --destroy says: its data is lost"
                )?;
                for signature in &destroy.found {
                    writeln!(f, "          ERASED, as --wipe says: {signature}")?;
                }
            }
        }
        for subject in &self.subjects {
            let what = subject_in_words(self, subject);
            writeln!(f, "subject   {}: {what}", subject.name)?;
        }
        let names: Vec<String> = self.modules.iter().map(|m| module_name(m)).collect();
        let modules = match names.as_slice() {
            [] => "no modules".into(),
            names => format!("the modules {}", names.join(", ")),
        };
        writeln!(
            f,
            "guest     {} ({}), {modules}; {} of memory",
            self.kernel.path.display(),
            self.kernel.release,
            self.memory
        )?;
        let cpus: Vec<_> = self.cpus.iter().map(usize::to_string).collect();
        writeln!(
            f,
            "CPUs      {}: for the host's work, and for the VMM with its guest, alike",
            cpus.join(", ")
        )?;
        writeln!(
            f,
            "rest      before the host's turn, as long as mini-vmm's last guest needed to start"
        )?;
        works(self, f)?;
        let after = self.counting() + self.following() + self.checking();
        let seconds = (self.at_most() + after).as_secs();
        writeln!(
            f,
            "time      at most {} min {} s: rounds of some {} s, {} at most, and some {} s \
             after them to count exits and to follow interrupts",
            seconds / 60,
            seconds % 60,
            self.round().as_secs(),
            self.stopping.most,
            (self.counting() + self.following()).as_secs()
        )
    }
}

/// The device for people.
fn device(plan: &Plan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let address = &plan.device.address;
    write!(
        f,
        "device    {address} ({}): ",
        plan.device.driver_in_words()
    )?;
    match (&plan.device.unit, &plan.link) {
        (Unit::Disk(disk), _) => {
            let known = |text: &Option<String>| text.clone().unwrap_or("unknown".into());
            writeln!(
                f,
                "/dev/{}, {}, serial number {}, {:.1} GB",
                disk.name,
                known(&disk.model),
                known(&disk.serial),
                disk.id.sectors as f64 * 512.0 / 1e9
            )
        }
        (Unit::Function, _) => writeln!(f, "neither disk nor network port"),
        (Unit::Port(port), link) => {
            writeln!(f, "the network port {}, {}", port.name, port.mac)?;
            let Some(link) = link else { return Ok(()) };
            let PortId {
                address, prefix, ..
            } = &link.id;
            writeln!(
                f,
                "          gets the address {address}/{prefix}; in turns in which the host's \
                 driver has it, it is lent to a network of its own, and goes back"
            )?;
            writeln!(f, "other end {}", link.end_in_words())?;
            let (peer, prefix) = link.peer();
            match link.end {
                End::There => Ok(()),
                End::Here(_) => writeln!(
                    f,
                    "          gets the address {peer}/{prefix}; for the run it is lent to a \
                     network of its own, and goes back"
                ),
            }
        }
    }
}

fn subject_in_words(plan: &Plan, subject: &Subject) -> String {
    match &subject.kind {
        _ if subject.repeats.is_some() => {
            "the same once more: what differs between the two is noise".into()
        }
        Kind::Host => format!(
            "{} of Linux {}",
            plan.device.driver.as_ref().map_or_else(
                || "no driver".to_owned(),
                |driver| format!("the driver {driver}")
            ),
            plan.release
        ),
        Kind::MiniVmm {
            change: Some(change),
            ..
        } => format!("the same with {}", change.option()),
        Kind::Peer {
            program, differs, ..
        } => format!(
            "a guest of {} ({}); not equal: {differs}",
            program.path.display(),
            program.version
        ),
        Kind::MiniVmm { program, .. } => format!(
            "a guest of {} ({}, sha256 {}…): the device is bound to vfio-pci for each \
             turn, and given back",
            program.path.display(),
            program.version,
            &program.sha256[..12.min(program.sha256.len())]
        ),
    }
}

/// The work for people.
fn works(plan: &Plan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for work in &plan.task.works {
        writeln!(
            f,
            "work      {}: {:.1} s after {:.1} s of warm-up{}",
            work.in_words(),
            plan.task.measure_ms as f64 / 1000.0,
            plan.task.warm_up_ms as f64 / 1000.0,
            match work.traffic {
                None => format!(", by {}", plan.task.engine.in_words()),
                Some(_) => String::new(),
            }
        )?;
    }
    if plan.life {
        writeln!(
            f,
            "life      start to the first instruction, to /init and to the driver's being ready; \
             a reset of\n          the function, if it has one; a reboot of the guest"
        )?;
    }
    if let (Some(program), Some(work)) = (&plan.checker, which::work(&plan.task)) {
        writeln!(
            f,
            "check     {} does \"{}\" by the host's driver, too: twice, beside two more turns",
            program.version,
            work.in_words()
        )?;
    }
    Ok(())
}

fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or_default().to_owned()
}
