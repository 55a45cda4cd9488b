//! mini-vmm-bench measures a network port whose other end is a second port of the machine: a link
//! with a known delay has that delay for each subject, and both ports go back however it ends.

use lab::expect::expect;
use lab::outcome::Outcome;
use lab::scenario::Scenario;
use lab::{Error, Result, vmm};
use serde_json::Value;

/// The port that is measured, and the other end of its link.
const PORT: &str = "0000:00:06.0";
const OTHER: &str = "0000:00:07.0";

/// QEMU keeps what the first port sends until the end of an interval of 20 ms. A request that is
/// sent when the last answer has come takes a whole one.
const DELAY_US: f64 = 20_000.0;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_measured_port_has_its_known_delay")
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .limit(400)
            .qemu(&[
                "-netdev",
                "hubport,id=first,hubid=7",
                "-netdev",
                "hubport,id=second,hubid=7",
                "-object",
                "filter-buffer,id=delay,netdev=first,queue=rx,interval=20000",
                "-device",
                "e1000e,netdev=first,addr=6,romfile=,mac=52:54:00:00:00:06",
                "-device",
                "e1000e,netdev=second,addr=7,romfile=,mac=52:54:00:00:00:07",
            ])
            .script(script(), check),
    ]
}

/// Three plans that change nothing, a run, and SIGKILL while both ports are lent.
fn script() -> String {
    let bench = format!(
        "mini-vmm-bench {PORT} --guest-kernel /boot/bzImage --memory 256M --quick --rounds 1"
    );
    let both = format!("{bench} --peer-port {OTHER} --guest-cmdline \"$cmdline\"");
    format!(
        "drivers >/run/drivers\ncd /run\nmount -t debugfs debugfs /sys/kernel/debug\n\
         ports() {{ echo $(ls /sys/class/net | grep -c eth) \
         $(cat /sys/class/net/eth*/flags 2>/dev/null | grep -c 0x1002); }}\n\
         try() {{\nname=$1 wanted=$2\nshift 2\nstatus=0\n\
         \"$@\" --dry-run >/run/out 2>&1 || status=$?\n\
         say tried $name $status $(grep -c \"$wanted\" /run/out)\n}}\n\
         try alone 'needs the other end' {bench}\n\
         try itself 'two ends' {bench} --peer-port {PORT}\n\
         ip addr add 192.0.2.9/24 dev eth1\n\
         try used 'is in use' {bench} --peer-port {OTHER}\n\
         ip addr del 192.0.2.9/24 dev eth1\n\
         try plan 'lent to a network' {bench} --peer-port {OTHER}\n\
         say before $(ports)\n\
         {both} --measure 1 --output report\nstate measured\nsay after $(ports)\n\
         say report $(cat report.json)\n\
         {both} --measure 10 --output killed >/run/out 2>&1 & pid=$!\n\
         for _ in $(seq 300); do [ \"$(ports)\" = '0 0' ] && break; sleep 0.1; done\n\
         say lent $(ports)\nkill -KILL $pid\nwait $pid || say killed $?\n\
         for _ in $(seq 100); do [ \"$(ports)\" = '2 2' ] && break; sleep 0.1; done\n\
         say back $(ports)\nstate killed\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    for (key, wanted) in [
        (
            "tried",
            &["alone 1 1", "itself 1 1", "used 1 1", "plan 0 2"][..],
        ),
        ("before", &["2 2"]),
        ("after", &["2 2"]),
        ("lent", &["0 0"]),
        ("killed", &["137"]),
        ("back", &["2 2"]),
        (
            "state",
            &["measured same records=0", "killed same records=0"],
        ),
    ] {
        let found: Vec<_> = outcome.transcript.lab(key).collect();
        expect(found == wanted, || format!("{key}: {found:?}"))?;
    }
    let report = outcome.transcript.lab("report").next().unwrap_or_default();
    let report: Value =
        serde_json::from_str(report).map_err(|e| Error::failed(format!("the report: {e}")))?;
    let turns = report["rounds"][0].as_array().cloned().unwrap_or_default();
    expect(turns.len() == 3, || format!("{} turns", turns.len()))?;
    for trial in &turns {
        let samples = trial["samples"].as_array().cloned().unwrap_or_default();
        expect(samples.len() == 4, || format!("{samples:?}"))?;
        for sample in &samples {
            let done = sample["operations"].as_u64();
            expect(done > Some(0), || format!("nothing came back: {sample}"))?;
        }
        let time = samples[0]["median_us"].as_f64().unwrap_or(0.0);
        let fits = (0.9..=1.1).contains(&(time / DELAY_US));
        expect(fits, || format!("subject {}: {time} µs", trial["subject"]))?;
    }
    // What the messages cost mini-vmm's guest was counted.
    let counts = report["counts"].as_array().map_or(0, Vec::len);
    expect(counts == 5, || format!("{counts} counts"))
}
