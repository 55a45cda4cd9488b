//! What devices cost a start: the times to the guest's first instruction and to its /init without a
//! device, with one NVMe disk and with four, in turns in one machine. A measurement, which prints
//! medians, ranges and ratios: a busy host changes times, so no time fails. The machine has one
//! CPU, so what is done beside the guest takes the guest's time to /init: with several CPUs a
//! device costs less.

use lab::disk::Disk;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::transcript::number;
use lab::{Error, Result};
use serde_json::Value;

const DISKS: [Disk; 4] = [
    Disk::new("a", 5),
    Disk::new("b", 6),
    Disk::new("c", 7),
    Disk::new("d", 8),
];

/// How many devices the guests have.
const DEVICES: [usize; 3] = [0, 1, 4];

/// Starts of each kind that count. One more comes before them.
const ROUNDS: usize = 11;

/// The most that the time to the first instruction and that to /init may be, as multiples of those
/// with fewer devices.
const MOST: [(usize, usize, Option<f64>, Option<f64>); 2] =
    [(1, 0, Some(1.3), None), (4, 1, Some(1.2), Some(1.1))];

/// `start NAME PROGRAM ARGS` runs a guest that powers off in /init. It tells the milliseconds from
/// the start of the program to /init, in steps of ten, and the program's report.
const START: &str = "\
start() {
	name=$1
	shift
	: >/run/init
	from=$(milliseconds)
	\"$@\" --stats=/run/report $boot --memory 512M --cmdline \"$cmdline lab.disks=none\" \\
		</dev/null 2>/run/messages | {
		grep -m1 -q 'L2: init' && echo $(($(milliseconds) - from)) >/run/init
		cat >/dev/null
	}
	say took $name init=$(cat /run/init)
	say report $name $(tr -d '\\n ' </run/report)
	sed 's/^/VMM| /' /run/messages
}
";

pub fn all() -> Vec<Scenario> {
    let all = |step: &str| -> String {
        let lines = DISKS.iter().map(|disk| format!("{step} {}\n", disk.bdf()));
        lines.collect()
    };
    let mut script = format!("{START}{}", all("bind_vfio"));
    for round in 0..=ROUNDS {
        for devices in DEVICES {
            let flags = DISKS.iter().take(devices);
            let flags = flags.map(|disk| format!(" --vfio {}", disk.bdf()));
            let flags: String = flags.collect();
            script += &format!("start {devices}-{round} mini-vmm{flags}\n");
        }
    }
    script += &all("give_back");
    vec![
        Scenario::new("what_devices_cost_a_start")
            .disks(&DISKS)
            .limit(500)
            .apart()
            .script(script, |outcome| {
                Starts::of(outcome)?.print();
                Ok(())
            }),
    ]
}

/// The times of the starts, in milliseconds, by the number of devices.
struct Starts(Vec<(usize, Vec<Start>)>);

/// One start.
struct Start {
    /// CPU time before `main`, and the time until a vCPU enters the guest.
    first: f64,
    init: f64,
    /// From the first instruction until the last device is a function of the guest.
    open: f64,
    /// For how long vCPUs waited for devices.
    waited: f64,
}

/// One of the times of a start.
type Time = fn(&Start) -> f64;

impl Starts {
    fn of(outcome: &Outcome) -> Result<Self> {
        let all = DEVICES.into_iter().map(|devices| {
            let starts = (1..=ROUNDS).map(|round| {
                let start = format!("{devices}-{round} ");
                let fact = |key| {
                    let mut facts = outcome.transcript.lab(key);
                    facts.find_map(|fact| fact.strip_prefix(&start))
                };
                let init = fact("took").and_then(|fact| number(fact, "init"));
                let report = fact("report").and_then(|json| serde_json::from_str(json).ok());
                let times = report.zip(init).and_then(|(r, init)| Start::new(&r, init));
                times.ok_or_else(|| Error::failed(format!("the start {start}has no times")))
            });
            Ok((devices, starts.collect::<Result<_>>()?))
        });
        Ok(Self(all.collect::<Result<_>>()?))
    }

    /// The middle of a time with so many devices, the least and the most.
    fn range(&self, devices: usize, time: Time) -> [f64; 3] {
        let mut starts = self.0.iter().filter(|(number, _)| *number == devices);
        let starts = starts.next().map(|(_, starts)| &starts[..]);
        let mut times: Vec<f64> = starts.unwrap_or_default().iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
        [at(ROUNDS / 2), at(0), at(ROUNDS - 1)]
    }

    fn print(&self) {
        let times: [(&str, Time); 4] = [
            ("first instruction", |start| start.first),
            ("/init", |start| start.init),
            ("devices open after the first instruction", |start| {
                start.open
            }),
            ("waited", |start| start.waited),
        ];
        for devices in DEVICES {
            for (what, time) in times {
                let [median, least, most] = self.range(devices, time);
                eprintln!("  {devices} devices, {what}: {median:.1} ({least:.1} to {most:.1}) ms");
            }
        }
        for (more, fewer, first, init) in MOST {
            for (what, time, most) in [(times[0].0, times[0].1, first), ("/init", times[1].1, init)]
            {
                let of = |devices| self.range(devices, time)[0];
                let limit = most.map(|most| format!(" (the limit is {most})"));
                eprintln!(
                    "  {more} devices to {fewer}, {what}: {:.3} times as long{}",
                    of(more) / of(fewer),
                    limit.unwrap_or_default()
                );
            }
        }
    }
}

impl Start {
    fn new(report: &Value, init: u64) -> Option<Self> {
        let phases = report["phases"].as_array()?;
        let ends = |name: &'static str| {
            let named = phases.iter().filter(move |phase| phase["name"] == name);
            named.filter_map(|phase| phase["end_us"].as_u64())
        };
        let first = ends("first_run").next()?;
        let open = ends("add_device").max().unwrap_or(first);
        let waits = report["devices"].as_array()?.iter();
        let waited: u64 = waits
            .filter_map(|device| device["waited_us"].as_u64())
            .sum();
        let ms = |us: u64| us as f64 / 1000.0;
        Some(Self {
            first: ms(report["cpu_before_main_us"].as_u64()? + first),
            init: init as f64,
            open: ms(open.saturating_sub(first)),
            waited: ms(waited),
        })
    }
}
