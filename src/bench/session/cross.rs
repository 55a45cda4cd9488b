//! The checks by other programs, after the rounds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cross::check::{CrossCheck, Figures, figures};
use crate::cross::{fio, iperf3, tool, which};
use crate::error::{Error, Result};
use crate::session::other_end::OtherEnd;
use crate::session::plan::Plan;
use crate::stop::STOP;
use crate::subjects::host;
use crate::subjects::program::Program;
use crate::work::quantity;
use crate::work::task::{PortId, Target, Task, Work};

/// What another program needs besides the time of its work.
const GRACE: Duration = Duration::from_secs(30);

/// Lets the other program do the work by the host's driver, and this program beside it.
///
/// # Errors
/// The user has ended the measurement. What else fails is told in the check.
pub fn check(plan: &Plan, other_end: Option<&OtherEnd>) -> Result<Vec<CrossCheck>> {
    let (Some(work), Some(name)) = (which::work(&plan.task), which::tool_of(&plan.task.target))
    else {
        return Ok(Vec::new());
    };
    let outcome = match (&plan.checker, &plan.task.target, other_end) {
        (None, ..) => Err(Error::new(format!("there is no {name} in PATH"))),
        (Some(fio), Target::Disk(_), _) => by_fio(plan, fio, work),
        (Some(iperf3), Target::Port(id), Some(end)) => by_iperf3(plan, iperf3, work, id, end),
        (Some(_), Target::Port(_) | Target::Function, _) => {
            Err(Error::new("the other end is another machine"))
        }
    };
    if let Err(error) = &outcome
        && error.is_interrupted()
    {
        return outcome.map(|_| Vec::new());
    }
    let why = outcome.as_ref().err().map(ToString::to_string);
    let version = plan.checker.as_ref().map(|program| program.version.clone());
    Ok(vec![CrossCheck {
        tool: version.unwrap_or_else(|| name.into()),
        work: work.in_words(),
        quantity: match work.traffic {
            None => "median time of a read in µs".into(),
            Some(_) => "Gbit/s".into(),
        },
        figures: outcome.ok(),
        why,
    }])
}

/// This program's value by the host's driver, in the quantity's unit.
fn ours(plan: &Plan, work: &Work, seed: u64) -> Result<f64> {
    let task = Task {
        works: vec![work.clone()],
        destroy: None,
        ..plan.task.clone()
    };
    let seed_and_rest = (seed, Duration::ZERO);
    let trial = host::trial(&task, &plan.device.path, &plan.release, seed_and_rest)?;
    trial.check(&task)?;
    let value = quantity::value(work, &trial.samples[0]);
    Ok(match work.traffic {
        None => value,
        Some(_) => quantity::gigabits(work, value),
    })
}

/// The time after which the other program is ended.
fn limit(plan: &Plan) -> Duration {
    Duration::from_millis(plan.task.warm_up_ms + plan.task.measure_ms) + GRACE
}

fn by_fio(plan: &Plan, fio: &Program, work: &Work) -> Result<Figures> {
    let mut seed = u64::MAX;
    let mut own = || {
        seed -= 1;
        ours(plan, work, seed)
    };
    figures(&mut own, &mut || {
        let disk = host::wait_for_disk(&plan.device.path, &plan.task)?;
        // While fio has the disk, nobody mounts it (open(2), O_EXCL).
        let held = disk.open(None)?;
        let command = fio::command(&fio.path, &disk.node(), work, &plan.task);
        let said = tool::run(command, limit(plan), &STOP)?;
        drop(held);
        fio::median_us(&said)
    })
}

fn by_iperf3(
    plan: &Plan,
    iperf3: &Program,
    work: &Work,
    id: &PortId,
    end: &OtherEnd,
) -> Result<Figures> {
    let peer = *id.peer.ip();
    let mut own = || ours(plan, work, 1);
    figures(&mut own, &mut || {
        let lent = host::lend(&plan.device.path, id)?;
        let over = AtomicBool::new(false);
        let said = thread::scope(|scope| {
            scope.spawn(|| {
                let server = iperf3::server(&iperf3.path, peer);
                // The client says what has failed.
                let _ = end.run(|| tool::run(server, limit(plan), &over));
            });
            let said = lent.run(|| {
                ask(&|| {
                    let client = iperf3::client(&iperf3.path, peer, &plan.task);
                    iperf3::gigabits(&tool::run(client, limit(plan), &STOP)?)
                })
            });
            over.store(true, Ordering::Relaxed);
            said
        });
        lent.give_back()?;
        said?
    })
}

/// Asks again while the server starts.
fn ask(client: &dyn Fn() -> Result<f64>) -> Result<f64> {
    for _ in 0..20 {
        match client() {
            Err(error) if !error.is_interrupted() => {}
            other => return other,
        }
        thread::sleep(Duration::from_millis(100));
    }
    client()
}
