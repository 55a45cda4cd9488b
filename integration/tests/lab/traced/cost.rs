//! What tracing costs: the time from a VMM's start to its guest's /init, traced and untraced in
//! turns in one machine. A measurement, which prints both ratios: a busy host changes times, so no
//! time fails.

use lab::disk::Disk;
use lab::expect::{guest, run};
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};

use super::qemu;

const DISK: Disk = Disk::new("lab-disk", 5);

/// Boots of each VMM, untraced and as many traced ones; an odd number, for the median.
const PAIRS: usize = 5;

/// The most that a traced boot may take, as a multiple of the untraced one.
const MOST: [(&str, f64); 2] = [("mini-vmm", 1.25), ("QEMU", 2.0)];

pub fn scenario() -> Scenario {
    let ours = "mini-vmm $boot --memory 256M --cmdline \"$cmdline\" --vfio 0000:00:05.0";
    let mut script = String::from("bind_vfio 0000:00:05.0\n");
    for (name, vmm) in [("mini-vmm", ours), ("QEMU", &qemu::linux("0000:00:05.0"))] {
        for _ in 0..PAIRS {
            script += &format!("run_as '' {vmm}\n");
            script += &format!("run_as '' mini-vmm-trace -o /run/trace -- {vmm}\n");
        }
        script += &format!("say seen {name} $(sed -n 's/ in all$//p' /run/trace)\n");
    }
    script += "give_back 0000:00:05.0\n";
    Scenario::new("what_tracing_costs")
        .built("mini-vmm-trace", vmm::tracer)
        .disk(DISK)
        .machine(qemu::add)
        .inner_qemu()
        .limit(900)
        .apart()
        .script(script, check)
}

fn check(outcome: &Outcome) -> Result<()> {
    for (vmm, (name, most)) in MOST.into_iter().enumerate() {
        let boots = (0..PAIRS).map(|pair| {
            let at = 2 * (vmm * PAIRS + pair);
            Ok([boot(outcome, at)?, boot(outcome, at + 1)?])
        });
        let boots = boots.collect::<Result<Vec<_>>>()?;
        let [plain, traced] = [0, 1].map(|which| {
            let mut times: Vec<f64> = boots.iter().map(|pair| pair[which]).collect();
            times.sort_by(f64::total_cmp);
            times
        });
        let median = |times: &[f64]| times[PAIRS / 2];
        eprintln!(
            "  {name}: {:.3} times as long (the limit is {most}); seconds untraced {plain:.2?}, \
             traced {traced:.2?}",
            median(&traced) / median(&plain)
        );
    }
    let exits: Vec<_> = outcome.transcript.lab("seen").collect();
    eprintln!("  exits of the last traced run, to its end: {exits:?}");
    Ok(())
}

/// Seconds from the start to /init.
fn boot(outcome: &Outcome, index: usize) -> Result<f64> {
    let run = run(outcome, index)?;
    guest(&run, "init")?;
    let init = run
        .lines
        .iter()
        .find(|line| line.text.starts_with("L2: init"));
    let start = run.lines.first().map(|line| line.at);
    let times = init.zip(start);
    let took = times.map(|(init, start)| (init.at - start).as_secs_f64());
    took.ok_or_else(|| Error::failed("a boot has no time"))
}
