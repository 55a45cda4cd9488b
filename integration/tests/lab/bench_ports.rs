//! mini-vmm-bench measures a network port whose other end is a second port of the machine: a link
//! with a known delay has that delay for each subject, and both ports go back however it ends. QEMU
//! gives its guest the port in three ways: assigned, emulated and by virtio.

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

/// The two ports, and the link between.
const LINK: [&str; 10] = [
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
];

/// Shell functions. `ports` prints how many ports L1 has, how many of them are down and have all
/// other flags as at first, how many have an address, and how many macvtaps there are in any
/// network. `try` runs a plan, which changes nothing.
const FUNCTIONS: &str = "\
    drivers >/run/drivers\ncd /run\nmount -t debugfs debugfs /sys/kernel/debug\n\
    ports() { echo $(ls /sys/class/net | grep -c eth) \
    $(cat /sys/class/net/eth*/flags 2>/dev/null | grep -c 0x1002) \
    $(ip addr | grep -c 'inet 198') $(ls /dev | grep -c '^tap'); }\n\
    try() {\nname=$1 wanted=$2\nshift 2\nstatus=0\n\
    \"$@\" --dry-run >/run/out 2>&1 || status=$?\n\
    say tried $name $status $(grep -c \"$wanted\" /run/out)\n}\n";

pub fn all() -> Vec<Scenario> {
    let scenario = |name, limit| {
        Scenario::new(name)
            .built("mini-vmm-bench", vmm::bench)
            .apart()
            .limit(limit)
            .qemu(&LINK)
    };
    vec![
        scenario("a_measured_port_has_its_known_delay", 400).script(script(), check),
        scenario("qemu_gives_its_guest_a_port_in_three_ways", 900)
            .inner_qemu()
            .script(ways(), check_ways),
    ]
}

fn bench() -> String {
    format!("mini-vmm-bench {PORT} --guest-kernel /boot/bzImage --memory 256M --quick --rounds 1")
}

/// Three plans that change nothing, a run, and SIGKILL while both ports are lent.
fn script() -> String {
    let bench = bench();
    let both = format!("{bench} --peer-port {OTHER} --guest-cmdline \"$cmdline\"");
    format!(
        "{FUNCTIONS}\
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
         for _ in $(seq 300); do [ \"$(ports)\" = '0 0 0 0' ] && break; sleep 0.1; done\n\
         say lent $(ports)\nkill -KILL $pid\nwait $pid || say killed $?\n\
         for _ in $(seq 100); do [ \"$(ports)\" = '2 2 0 0' ] && break; sleep 0.1; done\n\
         say back $(ports)\nstate killed\n"
    )
}

/// A disk's ways and a kernel without vhost are refused. Then the run, and SIGKILL while QEMU has
/// the macvtap.
fn ways() -> String {
    let bench = format!(
        "{} --peer-port {OTHER} --guest-cmdline \"$cmdline\"",
        bench()
    );
    format!(
        "{FUNCTIONS}\
         qemu=qemu-system-x86_64\n\
         number=$(cat /sys/class/misc/vhost-net/dev)\n\
         try disk 'gives its guest a disk' {bench} --peer qemu-nvme\n\
         rm /dev/vhost-net\n\
         try novhost 'modprobe vhost_net' {bench} --peer qemu-vhost\n\
         mknod /dev/vhost-net c ${{number%:*}} ${{number#*:}}\n\
         say before $(ports)\n\
         {bench} --measure 1 --peer qemu-vfio,qemu-e1000e,qemu-vhost --output report 2>&1 | cat\n\
         state measured\nsay after $(ports)\n\
         say report $(cat report.json)\n\
         {bench} --measure 10 --peer qemu-vhost --output killed >/run/out 2>&1 & pid=$!\n\
         for _ in $(seq 4000); do\n\
         pidof $qemu >/dev/null && ls /dev | grep -q '^tap' && break; sleep 0.1; done\n\
         say lent $(ports) $(pidof $qemu | wc -w)\n\
         kill -KILL $pid\nwait $pid || say killed $?\n\
         for _ in $(seq 100); do\n\
         [ \"$(ports) $(pidof $qemu | wc -w)\" = '2 2 0 0 0' ] && break; sleep 0.1; done\n\
         say back $(ports) $(pidof $qemu | wc -w)\nstate killed\n"
    )
}

fn check(outcome: &Outcome) -> Result<()> {
    for (key, wanted) in [
        (
            "tried",
            &["alone 1 1", "itself 1 1", "used 1 1", "plan 0 2"][..],
        ),
        ("lent", &["0 0 0 0"]),
        ("back", &["2 2 0 0"]),
    ] {
        is_said(outcome, key, wanted)?;
    }
    check_ends(outcome)?;
    let report = report(outcome)?;
    for (subject, time) in times(&report, 3)?.into_iter().enumerate() {
        let fits = (0.9..=1.1).contains(&(time / DELAY_US));
        expect(fits, || format!("subject {subject}: {time} µs"))?;
    }
    // What the messages cost mini-vmm's guest was counted.
    let counts = report["counts"].as_array().map_or(0, Vec::len);
    expect(counts == 5, || format!("{counts} counts"))
}

fn is_said(outcome: &Outcome, key: &str, wanted: &[&str]) -> Result<()> {
    let found: Vec<_> = outcome.transcript.lab(key).collect();
    expect(found == wanted, || format!("{key}: {found:?}"))
}

/// After a run that ended by itself, and after SIGKILL, L1 has its ports and drivers as before.
fn check_ends(outcome: &Outcome) -> Result<()> {
    let states = ["measured same records=0", "killed same records=0"];
    for (key, wanted) in [
        ("before", &["2 2 0 0"][..]),
        ("after", &["2 2 0 0"]),
        ("killed", &["137"]),
        ("state", &states),
    ] {
        is_said(outcome, key, wanted)?;
    }
    Ok(())
}

fn report(outcome: &Outcome) -> Result<Value> {
    let report = outcome.transcript.lab("report").next().unwrap_or_default();
    serde_json::from_str(report).map_err(|e| Error::failed(format!("the report: {e}")))
}

/// The time of a request and its answer for each of so many subjects, all of whose messages came
/// back.
fn times(report: &Value, subjects: usize) -> Result<Vec<f64>> {
    let turns = report["rounds"][0].as_array().cloned().unwrap_or_default();
    expect(turns.len() == subjects, || format!("{} turns", turns.len()))?;
    let mut times = Vec::new();
    for trial in &turns {
        let samples = trial["samples"].as_array().cloned().unwrap_or_default();
        expect(samples.len() == 4, || format!("{samples:?}"))?;
        for sample in &samples {
            let done = sample["operations"].as_u64();
            expect(done > Some(0), || format!("nothing came back: {sample}"))?;
        }
        times.push(samples[0]["median_us"].as_f64().unwrap_or(0.0));
    }
    Ok(times)
}

/// The way of each subject in the report.
const WAYS: [&str; 6] = [
    "host",
    "mini-vmm",
    "qemu-vfio",
    "qemu-e1000e",
    "qemu-vhost",
    "mini-vmm",
];

fn check_ways(outcome: &Outcome) -> Result<()> {
    is_said(outcome, "tried", &["disk 1 1", "novhost 1 1"])?;
    is_said(outcome, "lent", &["0 0 0 1 1"])?;
    is_said(outcome, "back", &["2 2 0 0 0"])?;
    check_ends(outcome)?;
    let report = report(outcome)?;
    let subjects = report["subjects"].as_array().cloned().unwrap_or_default();
    let ways: Vec<_> = subjects
        .iter()
        .map(|subject| {
            let kind = &subject["kind"];
            kind["peer"].as_str().or(kind["is"].as_str()).unwrap_or("")
        })
        .collect();
    expect(ways == WAYS, || format!("the subjects are {ways:?}"))?;
    for (way, time) in WAYS.iter().zip(times(&report, WAYS.len())?) {
        // A card that is emulated twice may answer too late for the next interval.
        let most = if way.starts_with("qemu") { 5.1 } else { 1.1 };
        let fits = (0.9..=most).contains(&(time / DELAY_US));
        expect(fits, || format!("{way}: {time} µs"))?;
    }
    for (subject, thread) in [(3, "qemu-system-x86"), (4, "vhost")] {
        let differs = subjects[subject]["kind"]["differs"].as_str().unwrap_or("");
        expect(differs.contains("offloads"), || differs.to_owned())?;
        let counts = report["counts"].as_array().into_iter().flatten();
        let counts: Vec<_> = counts.filter(|c| c["subject"] == subject).collect();
        expect(counts.len() == 5, || format!("{counts:?}"))?;
        for count in counts.iter().filter(|count| count["work"] != "idle") {
            let time = count["costs"]["threads"][thread].as_u64();
            expect(time > Some(0), || format!("no time of {thread}: {count}"))?;
        }
    }
    Ok(())
}
