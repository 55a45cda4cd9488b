//! `make demo`: boots a stock kernel with a passed-through NVMe disk, and reports each step.
//! The exit status is 0 only when the guest read the disk by DMA and got its interrupts.
//!
//! `make demo TRACE=1` runs mini-vmm below `mini-vmm trace` instead, and shows in two screens how
//! the disk gets into the guest.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use lab::Result;
use lab::disk::Disk;
use lab::expect;
use lab::kernel::Choice;
use lab::progress::Step;
use lab::runner;
use lab::scenario::Scenario;
use lab::screens;
use lab::setup::Lab;
use lab::transcript::{Line, Speaker, number, value};

/// Words that select the messages of the guest's kernel that the demo shows.
const SHOWN: [&str; 7] = [
    "Linux version",
    "Command line:",
    "Hypervisor detected",
    "ECAM",
    "0x010802",
    "BAR 0",
    "nvme",
];

fn main() -> ExitCode {
    let traced = env::var("TRACE").is_ok_and(|value| !["", "0"].contains(&value.as_str()));
    let shown = if traced { trace() } else { demo() };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let disk = Disk::new("demo-disk", 5);
    host();
    heading("Getting ready");
    let lab = Lab::prepare(&[Choice::Stock], &[]);
    tell(&format!(
        "Debian's stock kernel, as packaged: {}",
        lab.kernel(Choice::Stock)?.version()
    ));
    heading("L1: a machine with an IOMMU, emulated by QEMU");
    let scenario = scenario(&disk);
    let mut story = Story {
        waiting: Some(Step::start("switching it on")),
    };
    let passed = runner::run(&scenario, &lab, &mut |line| story.hear(line))?;
    heading("Seen");
    tell("the guest read the disk's text by DMA, with an MSI-X interrupt for each read,");
    tell("what it wrote is in the image, and L1's own driver has the disk again.");
    tell(&format!(
        "The emulated machine lived for {:.1} s.",
        passed.took.as_secs_f64()
    ));
    Ok(())
}

/// Shows the two screens.
fn trace() -> Result<()> {
    let lab = Lab::prepare(&[Choice::Stock], &[]);
    let mut step = Some(Step::start(
        "a machine with an IOMMU, in it mini-vmm below the tracer",
    ));
    let scenario = screens::scenario("demo-trace", tell_screens).kernel(Choice::Stock);
    runner::run(&scenario, &lab, &mut |line| {
        if line.from == Speaker::Guest
            && let Some(step) = step.take()
        {
            step.done();
        }
    })?;
    Ok(())
}

fn tell_screens(screens: &[Vec<String>; 2]) -> Result<()> {
    for line in screens.iter().flatten() {
        say(line);
    }
    Ok(())
}

/// Describes L0, on which the demo emulates a machine.
fn host() {
    heading("L0: this host");
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    tell(&format!(
        "Linux {}, {cpus} CPUs",
        read("/proc/sys/kernel/osrelease").trim()
    ));
    let groups = std::fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
    tell(&format!(
        "{groups} IOMMU groups; the demo needs none, and touches no device of this host"
    ));
}

fn scenario(disk: &Disk) -> Scenario {
    let bdf = disk.bdf();
    let owned = disk.clone();
    let script = format!(
        "typed() {{ say \"typed $*\"; eval \"$*\"; }}\n\
         say iommu-groups $(ls /sys/kernel/iommu_groups | wc -l)\n\
         say device {bdf} driver=$(driver_of {bdf}) group=$(group_of {bdf})\n\
         typed 'mini-vmm host bind {bdf}'\n\
         say device {bdf} driver=$(driver_of {bdf}) group=$(group_of {bdf})\n\
         run_vmm $boot --vfio {bdf}\n\
         typed 'mini-vmm host unbind {bdf}'\n\
         say_back {bdf}\n"
    );
    Scenario::new("demo")
        .kernel(Choice::Stock)
        .disk(disk.clone())
        .script(script, move |outcome| {
            let run = expect::run(outcome, 0)?;
            expect::ended_well(&run)?;
            expect::worked(outcome, &run, &owned)?;
            expect::back_with_guest_text(outcome, &owned)
        })
}

/// Shows lines of L1's serial port as they arrive.
struct Story {
    waiting: Option<Step>,
}

impl Story {
    fn hear(&mut self, line: &Line) {
        if line.from != Speaker::L1
            && let Some(step) = self.waiting.take()
        {
            step.done();
        }
        match line.from {
            Speaker::Lab => self.lab(&line.text),
            Speaker::Guest => guest(&line.text),
            Speaker::Vmm => tell(&format!("mini-vmm says: {}", line.text)),
            Speaker::L1 => {}
        }
    }

    fn lab(&mut self, text: &str) {
        let (key, rest) = text.split_once(' ').unwrap_or((text, ""));
        match key {
            "l1-kernel" => tell(&format!(
                "an unmodified Linux {rest} runs in it, with its own KVM and VFIO"
            )),
            "iommu-groups" => tell(&format!("it has {rest} IOMMU groups")),
            "device" => tell(&format!(
                "{} is held by {} in group {}",
                rest.split(' ').next().unwrap_or_default(),
                value(rest, "driver").unwrap_or_default(),
                value(rest, "group").unwrap_or_default()
            )),
            "typed" => command(rest),
            "run" => {
                heading("L2: mini-vmm's guest");
                command(rest);
                self.waiting = Some(Step::start("the guest's first words"));
            }
            "exit" => {
                tell(&format!("mini-vmm ended with status {rest}"));
                heading("L1 again");
            }
            "back" => tell(&format!(
                "{} is held by {} and reads: {}",
                rest.split(' ').next().unwrap_or_default(),
                value(rest, "driver").unwrap_or_default(),
                rest.split_once("text=").map_or("nothing", |(_, text)| text)
            )),
            "guest-wrote" => tell(&format!("and where the guest wrote: {}", after_word(rest))),
            _ => {}
        }
    }
}

/// Shows the guest's console: facts from its /init, and some lines from its kernel.
fn guest(text: &str) {
    let Some(fact) = text.strip_prefix("L2: ") else {
        if SHOWN.iter().any(|word| text.contains(word)) {
            tell(&format!("  {text}"));
        }
        return;
    };
    let (key, rest) = fact.split_once(' ').unwrap_or((fact, ""));
    match key {
        "init" => tell(&format!("the guest's /init runs on Linux {rest}")),
        "pci" => tell(&format!("it found  {rest}")),
        "bar" => tell(&format!("    BAR    {}", after_word(rest))),
        "irq" => tell(&format!("interrupt {rest}")),
        "text" => tell(&format!("it read   \"{}\"", after_word(rest))),
        "reread" => tell(&format!("it wrote  \"{}\"", after_word(rest))),
        "interrupts" => tell(&format!(
            "it made {} direct reads, and had {} interrupts for them",
            value(rest, "reads").unwrap_or_default(),
            number(rest, "after")
                .unwrap_or(0)
                .saturating_sub(number(rest, "before").unwrap_or(0))
        )),
        "trouble" => tell(&format!("its kernel complains: {rest}")),
        _ => {}
    }
}

fn after_word(text: &str) -> &str {
    text.split_once(' ').map_or("", |(_, rest)| rest)
}

fn heading(text: &str) {
    say(&format!("\n{text}"));
}

fn tell(text: &str) {
    say(&format!("  {text}"));
}

fn command(text: &str) {
    say(&format!("  # {text}"));
}

/// Ignores errors: a closed pipe must not stop the demo half-way.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
