//! Two screens on how a device gets into a guest: lines of a trace that `mini-vmm trace --why` has
//! written, and what they are for.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::expect::{ended_well, guest, run, worked};
use crate::kept::{self, Files};
use crate::scenario::Scenario;
use crate::transcript::number;
use crate::vmm;

/// What fits into a screen.
pub const WIDTH: usize = 100;
pub const HEIGHT: usize = 40;

/// Before what a line means.
const INDENT: &str = "      ";

/// A step.
struct Step {
    /// The words of its line in the trace. The first begins the line, behind time and thread.
    line: &'static [&'static str],
    /// What the line means. A call has that from the trace.
    means: Option<&'static str>,
}

const fn call(line: &'static [&'static str]) -> Step {
    Step { line, means: None }
}

const fn access(line: &'static [&'static str], means: &'static str) -> Step {
    Step {
        line,
        means: Some(means),
    }
}

/// Before the guest runs.
const TAKEN: [Step; 13] = [
    call(&["kvm ", "KVM_CREATE_VM("]),
    call(&["vm ", "KVM_SET_USER_MEMORY_REGION(slot=0,"]),
    call(&["vm ", "KVM_CREATE_VCPU("]),
    access(
        &["group ", "openat(pathname=\"/dev/vfio/"],
        "Opens the group: the devices that the IOMMU cannot tell apart. One program can do so.",
    ),
    call(&["group ", "VFIO_GROUP_SET_CONTAINER("]),
    call(&["container ", "VFIO_SET_IOMMU("]),
    call(&["group ", "VFIO_GROUP_GET_DEVICE_FD("]),
    call(&["device ", "VFIO_DEVICE_GET_REGION_INFO(", "BAR0"]),
    access(
        &["device ", "mmap(", "[BAR0"],
        "Maps the device's registers into mini-vmm's own memory.",
    ),
    call(&["device ", "VFIO_DEVICE_GET_IRQ_INFO(", "MSIX"]),
    access(
        &["device ", "pread64(region=\"config\"", "count=4096"],
        "Reads the device's configuration space. The guest gets a part of it, and else a copy.",
    ),
    call(&["container ", "VFIO_IOMMU_MAP_DMA("]),
    call(&["kvm-vfio ", "KVM_SET_DEVICE_ATTR(", "FILE_ADD"]),
];

/// By the guest.
const FOUND: [Step; 13] = [
    access(
        &["vm ", "coalesced out cf8.4", "00:01.0 vendor ID"],
        "The guest selects a register of slot 1. KVM keeps the write, and mini-vmm does not run.",
    ),
    access(
        &["vcpu 0 ", "in cfc.", "00:01.0 vendor ID → 1b36"],
        "It reads the register, and mini-vmm answers: here is a device.",
    ),
    access(
        &["vcpu 0 ", "00:01.0 BAR0 ← ffffffff (sizing)"],
        "It writes ones: the bits that do not stay tell how many bytes of registers there are.",
    ),
    access(
        &["vcpu 0 ", "00:01.0 BAR0 → "],
        "mini-vmm answers from a copy; the device itself keeps the address that the host gave it.",
    ),
    access(
        &["vcpu 0 ", "00:01.0 COMMAND ← ", "memory"],
        "From now on the registers answer at the address that the guest has chosen:",
    ),
    call(&["vm ", "└ KVM_SET_USER_MEMORY_REGION(slot="]),
    access(
        &["vcpu 0 ", "MSI-X[1] address ← "],
        "The driver writes where its queue's interrupt goes. mini-vmm keeps the entry for itself.",
    ),
    access(&["vcpu 0 ", "MSI-X[1] data ← "], "And which vector it is."),
    access(
        &["vcpu 0 ", "MSI-X[1] vector control ← 00000000 "],
        "It lets the interrupt come, and mini-vmm connects the device with the guest's CPU:",
    ),
    access(&["eventfd ", "└ eventfd2("], "One eventfd is both ends."),
    call(&["vm ", "└ KVM_SET_GSI_ROUTING("]),
    call(&["vm ", "└ KVM_IRQFD("]),
    call(&["device ", "└ VFIO_DEVICE_SET_IRQS(", "MSIX", "(eventfd "]),
];

/// The line that ends the time in which the guest works its disk.
const DONE: Step = access(&["vcpu 0 ", "MSI-X[1] vector control ← 00000001 "], "");

const DISK: Disk = Disk::new("demo-disk", 5);
const FILES: Disk = Disk::new("files", 6);

/// A traced guest that works its disk. `seen` gets the screens.
pub fn scenario(
    name: &'static str,
    seen: impl Fn(&[Vec<String>; 2]) -> Result<()> + Send + Sync + 'static,
) -> Scenario {
    let script = "bind_vfio 0000:00:05.0\n\
        run_as '' mini-vmm trace --why --only kvm,vm,vcpu,kvm-device,container,group,device,exit,\
        coalesced,eventfd -o /run/trace -- mini-vmm $boot --memory 256M --cmdline \"$cmdline\" \
        --iommu container --vfio 0000:00:05.0\n\
        give_back 0000:00:05.0\n\
        keep /run/trace\n";
    Scenario::new(name)
        .built("mini-vmm-trace", vmm::tracer)
        .disks(&[DISK, FILES])
        .script(format!("{}{script}", kept::KEEP), move |outcome| {
            let run = run(outcome, 0)?;
            ended_well(&run)?;
            worked(outcome, &run, &DISK)?;
            let trace = Files::of(outcome, &FILES)?.text("trace")?;
            let reads = guest(&run, "interrupts")?;
            seen(&screens(&trace, reads)?)
        })
}

/// Makes the two screens. `interrupts` is what the guest has counted, such as `before=14 after=270
/// reads=256`.
///
/// # Errors
/// The trace lacks a step.
pub fn screens(trace: &str, interrupts: &str) -> Result<[Vec<String>; 2]> {
    let lines: Vec<Line<'_>> = trace.lines().filter_map(Line::parse).collect();
    let taken = TAKEN.iter().map(|step| Ok((find(&lines, step)?, step)));
    // The guest does one thing after the other.
    let mut from = 0;
    let found = FOUND.iter().map(|step| {
        from += find(&lines[from..], step)?;
        Ok((from, step))
    });
    let screen = |title: &str, steps: Result<Vec<(usize, &Step)>>| -> Result<Vec<String>> {
        let shown = steps?
            .into_iter()
            .flat_map(|(at, step)| lines[at].shown(step.means));
        let title = [
            "".into(),
            format!("How a device gets into a guest, {title}"),
            "".into(),
        ];
        Ok(title.into_iter().chain(shown).collect())
    };
    let taken = screen("1 of 2: mini-vmm takes the device", taken.collect())?;
    let mut found = screen("2 of 2: the guest finds it", found.collect())?;
    found.extend(afterwards(&lines[from..], interrupts)?);
    Ok([taken, found])
}

/// What the disk's work costs mini-vmm.
fn afterwards(lines: &[Line<'_>], interrupts: &str) -> Result<[String; 2]> {
    let work = &lines[..find(lines, &DONE)?];
    let exits = work
        .iter()
        .filter(|line| line.text.starts_with("vcpu ") && line.text.contains(" 00:01.0 "));
    let [before, after, reads] =
        ["before", "after", "reads"].map(|name| number(interrupts, name).unwrap_or(0));
    let came = after.saturating_sub(before);
    let text = format!(
        "Then the guest reads {reads} blocks, and gets {came} interrupts. Exits for the disk: {}",
        exits.count()
    );
    Ok(["".into(), fitted(&text)])
}

/// The number of a step's first line.
fn find(lines: &[Line<'_>], step: &Step) -> Result<usize> {
    let found = lines.iter().position(|line| line.is(step));
    found.ok_or_else(|| Error::failed(format!("the trace has no line {:?}", step.line)))
}

/// A line of the trace.
struct Line<'a> {
    /// Behind time and thread.
    text: &'a str,
    /// What the call is for.
    why: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The parts of a line that begins with a time and a thread.
    fn parse(line: &'a str) -> Option<Self> {
        let (time, rest) = line.trim_start().split_once(' ')?;
        let (thread, text) = rest.trim_start().split_once(' ')?;
        if !time.contains('.') || time.parse::<f64>().is_err() || thread.parse::<u32>().is_err() {
            return None;
        }
        let (text, why) = text
            .split_once("  # ")
            .map_or((text, None), |(t, w)| (t, Some(w)));
        // Without the time that the call took.
        let text = text.rsplit_once(" <").map_or(text, |(text, _)| text);
        Some(Self { text, why })
    }

    fn is(&self, step: &Step) -> bool {
        let mut rest = self.text;
        let begins = step
            .line
            .first()
            .is_none_or(|first| rest.starts_with(first));
        begins
            && step.line.iter().all(|word| match rest.split_once(word) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
    }

    /// The line, and below it what it is for.
    fn shown(&self, means: Option<&str>) -> [String; 2] {
        let means = means.or(self.why).unwrap_or_default();
        let width = WIDTH - INDENT.len();
        let means = match means.chars().count() > width {
            true => without_document(means),
            false => means,
        };
        [fitted(self.text), fitted(&format!("{INDENT}{means}"))]
    }
}

/// What a call is for, without the document that stands behind it in parentheses.
fn without_document(why: &str) -> &str {
    let mut depth = 0;
    let document = why.bytes().enumerate().rev().find(|(_, byte)| {
        depth += i32::from(*byte == b')') - i32::from(*byte == b'(');
        depth <= 0
    });
    match document {
        Some((at, b'(')) => why[..at].trim_end(),
        _ => why,
    }
}

/// As much of a text as fits into a line: its beginning and its end.
fn fitted(text: &str) -> String {
    let count = text.chars().count();
    if count <= WIDTH {
        return text.into();
    }
    let head = WIDTH * 3 / 5;
    let tail = text.chars().skip(count - (WIDTH - head - 1));
    text.chars().take(head).chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_keep_both_ends() {
        assert_eq!(fitted("short"), "short");
        let long = format!("begins{}ends", "·".repeat(200));
        let line = fitted(&long);
        assert_eq!(line.chars().count(), WIDTH);
        assert!(line.starts_with("begins·") && line.ends_with("·ends") && line.contains('…'));
        let document = format!("{} (api.rst 4.2)", "w".repeat(90));
        let line = Line {
            text: "kvm",
            why: Some(&document),
        };
        assert_eq!(line.shown(None)[1], format!("{INDENT}{}", "w".repeat(90)));
        assert_eq!(
            without_document("Ties (all) ends. (vfio.h (SET_IRQS))"),
            "Ties (all) ends."
        );
        assert_eq!(without_document("Ties ends."), "Ties ends.");
    }

    #[test]
    fn lines_of_a_trace() {
        let line = "   0.022184    9282 kvm          KVM_CREATE_VM(arg=0) = 7 (vm) <269 µs>  \
                    # Makes (a 1)";
        let line = Line::parse(line).unwrap();
        assert_eq!(line.text, "kvm          KVM_CREATE_VM(arg=0) = 7 (vm)");
        assert_eq!(line.why, Some("Makes (a 1)"));
        assert!(line.is(&TAKEN[0]) && !line.is(&TAKEN[1]));
        assert!(Line::parse("        1             1195 µs  KVM_CREATE_VM").is_none());
        let error = screens("", "").unwrap_err().to_string();
        assert!(error.contains("KVM_CREATE_VM"), "{error}");
    }
}
