//! Known differences, which mini-vmm-bench must find: a disk that becomes three per cent slower
//! between two runs, and a disk that is slow during the turns of one subject.

use std::collections::BTreeMap;

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

use crate::bench::{KNOWN, SLOW, SLOW_DISK, noise, states, unchanged};

/// The reads in each second after the change.
const LESS: f64 = 388.0;

/// The reads in each second during the turns of one subject.
const ALONE: f64 = 300.0;

/// The subjects of all runs.
const SUBJECTS: [&str; 3] = ["host", "mini-vmm", "mini-vmm again"];

/// The subject whose turns are slow.
const SLOW_ONE: &str = "mini-vmm";

/// The work that a disk which is emulated twice does at the disk's own speed.
const WORK: &str = "read-4k-d32";

/// The rounds of the runs that are compared: one more than an interval needs, because one may be
/// disturbed and left out.
const ROUNDS: usize = 6;

/// The rounds of the run in which one subject is slow.
const ROUNDS_ALONE: usize = 3;

pub fn all() -> Vec<Scenario> {
    let scenario = |name| {
        Scenario::new(name)
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .machine(|l1| l1.files = vec![("slow.img", noise())])
            .qemu(&SLOW_DISK)
    };
    vec![
        scenario("a_change_of_three_per_cent_is_found")
            .limit(900)
            .script(change(), check_change),
        scenario("a_disk_that_is_slow_in_turns_of_one_subject")
            .limit(400)
            .script(alone(), check_alone),
    ]
}

/// `throttle` lets QEMU change the disk's limit. `measure` prints a line for each turn: the lab
/// takes a machine that is silent for long to hang, and would stop it for a moment.
fn functions() -> String {
    format!(
        "throttle() {{\n\
         say qmp '{{\"execute\": \"block_set_io_throttle\", \"arguments\": {{\"device\": \"slow\", \
         \"bps\": 0, \"bps_rd\": 0, \"bps_wr\": 0, \
         \"iops\": '$1', \"iops_rd\": 0, \"iops_wr\": 0}}}}'\n\
         }}\n\
         measure() {{\n\
         mini-vmm-bench {SLOW} --guest-kernel /boot/bzImage --memory 256M \
         --guest-cmdline \"$cmdline\" --quick --measure 1 --time 10 \"$@\" 2>&1\n\
         }}\n\
         drivers >/run/drivers\ncd /run\n"
    )
}

fn change() -> String {
    format!(
        "{}measure --rounds {ROUNDS} --output before | cat\n\
         throttle {LESS}\nsleep 1\n\
         measure --rounds {ROUNDS} --output after | cat\nstate measured\n\
         mini-vmm-bench compare before.json after.json >compared\n\
         say compared $(grep '32 at a time' compared | tr '\\n' ';')\n\
         for name in before after; do say report $(cat $name.json); done\n",
        functions()
    )
}

/// QEMU changes the limit when the turn of one subject begins or ends. Before each turn's work the
/// disk rests, or a guest boots.
fn alone() -> String {
    format!(
        "{}measure --rounds {ROUNDS_ALONE} --output during | while read -r line; do\n\
         echo \"$line\"\n\
         case $line in\n\
         'round '*', {SLOW_ONE};'*) throttle {ALONE} ;;\n\
         'round '*) throttle {KNOWN} ;;\n\
         esac\ndone\nstate measured\n\
         say report $(cat during.json)\n",
        functions()
    )
}

fn check_change(outcome: &Outcome) -> Result<()> {
    states(outcome, &["measured"])?;
    unchanged(outcome)?;
    let [before, after] = &reports(outcome)?[..] else {
        return Err(Error::failed("there are not two reports"));
    };
    let mut disturbed = Vec::new();
    for (report, wanted) in [(before, KNOWN), (after, LESS)] {
        for (subject, speeds) in speeds(report)? {
            if count_near(&subject, &speeds, wanted, ROUNDS)? < ROUNDS {
                disturbed.push(subject);
            }
        }
    }
    expect(disturbed.len() <= 1, || {
        format!("turns of {disturbed:?} were disturbed; run this on a quiet machine")
    })?;
    compared(outcome, &disturbed)
}

fn check_alone(outcome: &Outcome) -> Result<()> {
    states(outcome, &["measured"])?;
    unchanged(outcome)?;
    let [during] = &reports(outcome)?[..] else {
        return Err(Error::failed("there is not one report"));
    };
    for (subject, speeds) in speeds(during)? {
        let wanted = if subject == SLOW_ONE { ALONE } else { KNOWN };
        count_near(&subject, &speeds, wanted, ROUNDS_ALONE)?;
    }
    Ok(())
}

fn reports(outcome: &Outcome) -> Result<Vec<Value>> {
    let parse = |text| {
        let report = serde_json::from_str::<Value>(text);
        report.map_err(|e| Error::failed(format!("a report: {e}")))
    };
    outcome.transcript.lab("report").map(parse).collect()
}

/// The speed in each round, by subject.
fn speeds(report: &Value) -> Result<BTreeMap<String, Vec<f64>>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = BTreeMap::<_, Vec<f64>>::new();
    for round in list(&report["rounds"]) {
        for (subject, trial) in list(&round).iter().enumerate() {
            let name = report["subjects"][subject]["name"].as_str();
            let samples = list(&trial["samples"]);
            let sample = samples.iter().find(|sample| sample["work"] == WORK);
            let speed = sample.and_then(|sample| sample["per_second"].as_f64());
            let of = all.entry(name.unwrap_or_default().to_owned()).or_default();
            of.push(speed.unwrap_or(0.0));
        }
    }
    expect(all.keys().eq(SUBJECTS.iter()), || {
        format!("the subjects are {:?}", all.keys())
    })?;
    Ok(all)
}

/// Counts the rounds with the wanted speed. All but one must have it: the emulated machine may be
/// late for a moment.
fn count_near(subject: &str, speeds: &[f64], wanted: f64, rounds: usize) -> Result<usize> {
    let near = |speed: &&f64| (0.98..=1.02).contains(&(*speed / wanted));
    let count = speeds.iter().filter(near).count();
    expect(speeds.len() == rounds && count + 1 >= rounds, || {
        format!("{subject}: {speeds:?} reads each second in {rounds} rounds, not {wanted}")
    })?;
    Ok(count)
}

/// `compare` says of each subject that it does less, and the interval holds the true ratio. A turn
/// that was disturbed makes the interval of its subject wide.
fn compared(outcome: &Outcome, disturbed: &[String]) -> Result<()> {
    let lines = outcome.transcript.lab("compared").next().unwrap_or("");
    let rows: Vec<Vec<&str>> = lines
        .split(';')
        .map(|row| row.split('|').map(str::trim).collect())
        .filter(|row: &Vec<_>| row.len() == 10)
        .collect();
    expect(rows.len() == SUBJECTS.len(), || {
        format!("compared: {lines:?}")
    })?;
    for (row, subject) in rows.iter().zip(SUBJECTS) {
        if disturbed.iter().any(|name| name == subject) {
            continue;
        }
        let (low, high) = row[7].split_once('–').unwrap_or_default();
        let ends = [low, high].map(|end| end.parse::<f64>().unwrap_or(0.0));
        let true_ratio = LESS / KNOWN;
        expect(
            row[2] == subject
                && row[8] == "less"
                && (ends[0] - 0.0001..=ends[1] + 0.0001).contains(&true_ratio),
            || format!("{subject} was compared as {row:?}, and the true ratio is {true_ratio}"),
        )?;
    }
    Ok(())
}
