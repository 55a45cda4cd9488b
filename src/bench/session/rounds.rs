//! The rounds of a run.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cross::check::CrossCheck;
use crate::error::{Context, Error, Result};
use crate::kernel::initramfs::{self, Modules};
use crate::kernel::tiny;
use crate::say;
use crate::session::other_end::OtherEnd;
use crate::session::plan::Plan;
use crate::session::{cpus, cross, traced};
use crate::stats::order::turns;
use crate::stats::ratio::{MISSED, Ratio, corrected};
use crate::stats::stopping::Reason;
use crate::subjects::chains::Interrupts;
use crate::subjects::counts::Count;
use crate::subjects::host;
use crate::subjects::life;
use crate::subjects::list::{Kind, Subject, pairs};
use crate::subjects::mini_vmm::{Guest, in_memory};
use crate::subjects::other::OtherVmm;
use crate::subjects::program::Program;
use crate::subjects::trial::Trial;
use crate::work::moment::Moment;
use crate::work::quantity;

/// How long the disk rests before the host's turn as long as no guest has started.
const FIRST_REST: Duration = Duration::from_secs(1);

/// The rounds of a run.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// The turns of each whole round, in the order of the subjects.
    pub rounds: Vec<Vec<Trial>>,
    /// What the reads cost the guests.
    pub counts: Vec<Count>,
    /// The interrupts of the guests that have the device, in traced passes.
    pub interrupts: Vec<Interrupts>,
    /// What another program says of the host's work.
    pub checks: Vec<CrossCheck>,
    /// Why the run ended.
    pub ended: Ended,
}

/// Why a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// By its rule.
    Rule(Reason),
    /// By the user, or by an error.
    Early(String),
}

/// Makes the rounds. An error after the first round ends the run, and the whole rounds before it
/// count; the error is returned, too.
///
/// # Errors
/// The first round cannot be made.
pub fn run(plan: &Plan) -> Result<(Rounds, Option<Error>)> {
    let start = |link| OtherEnd::start(link, &plan.cpus);
    let other_end = plan.link.as_ref().map(start).transpose()?.flatten();
    let outcome = run_with(plan).map(|(mut made, mut error)| {
        if error.is_none() {
            show("a second program measures, too");
            match cross::check(plan, other_end.as_ref()) {
                Ok(checks) => made.checks = checks,
                Err(e) => error = Some(e),
            }
        }
        (made, error)
    });
    let back = other_end.map_or(Ok(()), OtherEnd::end).err();
    match (outcome, back) {
        (Ok((made, None)), back) => Ok((made, back)),
        (outcome, back) => {
            // The first error says why; the port that is left is told, too.
            back.iter().for_each(say::error);
            outcome
        }
    }
}

fn run_with(plan: &Plan) -> Result<(Rounds, Option<Error>)> {
    let program = fs::read("/proc/self/exe").context("cannot read this program")?;
    let modules = Modules {
        root: Path::new("/"),
        release: &plan.kernel.release,
        lists: &plan.lists,
        files: &plan.modules,
    };
    let archive = initramfs::make(&program, &plan.task, modules)?;
    let guest = Guest {
        kernel: plan.kernel.path.clone(),
        initramfs: in_memory(&archive)?,
        tiny: in_memory(&tiny::image())?,
        life: plan.life,
        cmdline: plan.cmdline.clone(),
        memory: plan.memory.clone(),
        cpus: plan.cpus.clone(),
        address: plan.device.address.clone(),
    };
    drop(archive);
    cpus::confine(&plan.cpus)?;
    if let Some(destroy) = &plan.destroy {
        destroy.prepare(&host::wait_for_disk(&plan.device.path, &plan.task)?)?;
    }
    let started = Instant::now();
    let mut last = Last::default();
    let mut rounds: Vec<Vec<Trial>> = Vec::new();
    loop {
        match round(plan, &guest, rounds.len(), (started, &mut last)) {
            Ok(turns) => rounds.push(turns),
            Err(error) if rounds.is_empty() => return Err(error),
            Err(error) => {
                let made = Rounds {
                    rounds,
                    counts: Vec::new(),
                    interrupts: Vec::new(),
                    checks: Vec::new(),
                    ended: Ended::Early(error.to_string()),
                };
                return Ok((made, Some(error)));
            }
        }
        let ratios = ratios(plan, &rounds);
        if let Some(reason) = plan.stopping.ends(rounds.len(), started.elapsed(), &ratios) {
            let (counts, error) = count(plan, &guest);
            let (interrupts, error) = match error {
                None => trace(plan, &guest),
                error => (Vec::new(), error),
            };
            let made = Rounds {
                rounds,
                counts,
                interrupts,
                checks: Vec::new(),
                ended: Ended::Rule(reason),
            };
            return Ok((made, error));
        }
    }
}

/// Counts what the reads cost each guest, after the times were measured: `--stats` counts more than
/// a run without it.
fn count(plan: &Plan, guest: &Guest) -> (Vec<Count>, Option<Error>) {
    let mut counts = Vec::new();
    if plan.task.works.is_empty() {
        return (counts, None);
    }
    let once = |(_, subject): &(usize, &Subject)| subject.repeats.is_none();
    for (index, subject) in plan.subjects.iter().enumerate().filter(once) {
        let tell = || show(&format!("counting exits, {}", subject.name));
        let counted = match &subject.kind {
            Kind::MiniVmm { program, change } => {
                tell();
                guest.count(program, *change, &plan.task, index)
            }
            Kind::Peer { peer, .. } if peer.counts() => {
                tell();
                peer_turn(plan, &subject.kind).and_then(|vmm| vmm.count(guest, &plan.task, index))
            }
            Kind::Peer { .. } | Kind::Host => continue,
        };
        match counted {
            Ok(of_subject) => counts.extend(of_subject),
            Err(error) => return (counts, Some(error)),
        }
    }
    let back = host::wait(&plan.device.path, &plan.task);
    (counts, back.err())
}

/// Records the way of the device's interrupts, after all that is timed.
fn trace(plan: &Plan, guest: &Guest) -> (Vec<Interrupts>, Option<Error>) {
    let mut all = Vec::new();
    for (index, subject) in traced::subjects(plan) {
        show(&format!("tracing interrupts, {}", subject.name));
        let vmm = || peer_turn(plan, &subject.kind);
        match traced::interrupts((plan, guest), (index, subject), vmm) {
            Ok(interrupts) => all.push(interrupts),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, host::wait(&plan.device.path, &plan.task).err())
}

/// The ratio of each comparison after some rounds, whose intervals are corrected for their number.
fn ratios(plan: &Plan, rounds: &[Vec<Trial>]) -> Vec<Option<Ratio>> {
    let mut compared = Vec::new();
    for (base, other) in pairs(&plan.subjects) {
        for (index, work) in plan.task.works.iter().enumerate() {
            let values = [base, other].map(|subject| -> Vec<f64> {
                let samples = rounds.iter().map(|turns| &turns[subject].samples[index]);
                samples.map(|s| quantity::value(work, s)).collect()
            });
            compared.push((true, values));
        }
        for moment in Moment::ALL {
            let values = [base, other].map(|subject| -> Option<Vec<f64>> {
                let trials = rounds.iter().map(|turns| &turns[subject].moments);
                trials.map(|moments| moments.of(moment)).collect()
            });
            // Where there is work, the run goes on for the work's sake alone.
            if let [Some(of_base), Some(of_other)] = values {
                compared.push((plan.task.works.is_empty(), [of_base, of_other]));
            }
        }
    }
    let missed = corrected(MISSED, compared.len());
    let deciding = compared.iter().filter(|(decides, _)| *decides);
    deciding
        .map(|(_, [of_base, of_other])| Ratio::of(of_base, of_other, missed))
        .collect()
}

/// What the turns so far have left.
#[derive(Debug, Default)]
struct Last {
    /// The hash of what the last turn has left on the disk.
    content: Option<String>,
    /// How long mini-vmm's last guest needed until it had the disk.
    ready_ms: Option<u64>,
}

impl Last {
    /// How long the disk rests before the host's turn: as it rested while mini-vmm's guest started.
    fn rest(&self) -> Duration {
        self.ready_ms.map_or(FIRST_REST, Duration::from_millis)
    }
}

/// Makes a round.
fn round(
    plan: &Plan,
    guest: &Guest,
    number: usize,
    (started, last): (Instant, &mut Last),
) -> Result<Vec<Trial>> {
    let count = plan.subjects.len();
    let mut turns_of: Vec<Option<Trial>> = vec![None; count];
    for (position, index) in turns(number, count).into_iter().enumerate() {
        let subject = &plan.subjects[index];
        progress(plan, number, position, &subject.name, started.elapsed());
        let begun = started.elapsed().as_secs_f64();
        let seed = (number * count + position + 1) as u64;
        let trial = match &subject.kind {
            Kind::Host => {
                let seed_and_rest = (seed, last.rest());
                host_turn(plan, seed_and_rest)
            }
            Kind::MiniVmm { program, change } => guest.trial(program, *change, &plan.task, seed),
            Kind::Peer { .. } => {
                peer_turn(plan, &subject.kind).and_then(|vmm| vmm.trial(guest, &plan.task, seed))
            }
        };
        let mut trial = trial?;
        trial.check(&plan.task)?;
        (trial.subject, trial.started_s) = (index, begun);
        // Each subject must find what the one before it has left.
        if let Some(left) = last.content.take()
            && left != trial.sha256
        {
            return Err(other_content(&subject.name, "was left"));
        }
        last.content.clone_from(&trial.left_sha256);
        if index == 1 {
            last.ready_ms = trial.ready_ms;
        }
        turns_of[index] = Some(trial);
    }
    // The next user of the device finds it with the host's driver.
    host::wait(&plan.device.path, &plan.task)?;
    let turns: Vec<Trial> = turns_of.into_iter().flatten().collect();
    let differs = turns.iter().find(|trial| {
        let same = trial.sha256 == turns[0].sha256;
        !same && trial.left_sha256.is_none()
    });
    match differs {
        Some(trial) => Err(other_content(
            &plan.subjects[trial.subject].name,
            &format!("{} reads", plan.subjects[0].name),
        )),
        None => Ok(turns),
    }
}

/// A turn of the host, with a reset of the function after the work.
fn host_turn(plan: &Plan, seed_and_rest: (u64, Duration)) -> Result<Trial> {
    let device = &plan.device;
    let mut trial = host::trial(&plan.task, &device.path, &plan.release, seed_and_rest)?;
    if plan.life {
        trial.moments = life::of_host(binder(plan)?, &device.address, &device.path)?;
    }
    Ok(trial)
}

fn other_content(subject: &str, than: &str) -> Error {
    Error::new(format!(
        "{subject} reads other content than {than} on the same disk"
    ))
}

/// A turn of another VMM.
fn peer_turn<'a>(plan: &'a Plan, kind: &'a Kind) -> Result<OtherVmm<'a>> {
    match kind {
        Kind::Peer {
            program,
            peer,
            native_idle,
            ..
        } => Ok(OtherVmm {
            program,
            peer: *peer,
            native_idle: *native_idle,
            binder: binder(plan)?,
            device: &plan.device.path,
        }),
        _ => Err(Error::new("the subject is no guest of another VMM")),
    }
}

/// The mini-vmm that binds the device for other VMMs.
fn binder(plan: &Plan) -> Result<&Program> {
    let mut programs = plan
        .subjects
        .iter()
        .filter_map(|subject| match &subject.kind {
            Kind::MiniVmm { program, .. } => Some(program),
            _ => None,
        });
    let first = programs.next();
    first.ok_or_else(|| Error::new("there is no mini-vmm to bind the device"))
}

/// Says on standard error what is going on, and how much time is left at most. On a terminal the
/// line stays where it is.
fn progress(plan: &Plan, round: usize, position: usize, subject: &str, elapsed: Duration) {
    let done = (round * plan.subjects.len() + position) as u32;
    let all = plan.stopping.most as u32 * plan.subjects.len() as u32;
    let left = match done {
        0 => plan.at_most(),
        // By what the turns took so far.
        _ => (elapsed / done * (all - done)).min(plan.stopping.time.saturating_sub(elapsed)),
    };
    show(&format!(
        "round {}, {subject}; at most {}:{:02} left",
        round + 1,
        left.as_secs() / 60,
        left.as_secs() % 60
    ));
}

fn show(line: &str) {
    let mut out = std::io::stderr();
    // Without a reader there is nobody to tell.
    let _ = match out.is_terminal() {
        true => write!(out, "\r\x1b[K{line}"),
        false => writeln!(out, "{line}"),
    };
}

/// Ends the line of the progress.
pub fn end_progress() {
    if std::io::stderr().is_terminal() {
        say::line("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_disk_rests_as_long_as_a_guest_starts() {
        let mut last = Last::default();
        assert_eq!(last.rest(), FIRST_REST);
        last.ready_ms = Some(1234);
        assert_eq!(last.rest(), Duration::from_millis(1234));
    }
}
