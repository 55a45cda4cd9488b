//! Calls of the kernel that do not end: a sound card whose driver waits, when it is unbound, for
//! the last process that has one of its nodes open. The wait cannot be interrupted.

use lab::Result;
use lab::disk::Disk;
use lab::expect::{back_with_guest_text, ended_well, exit, expect, run, worked};
use lab::outcome::Outcome;
use lab::scenario::Scenario;

const DISK: Disk = Disk::new("lab-disk", 5);
const SOUND: &str = "0000:00:08.0";
const CARD: [&str; 4] = [
    "-device",
    "intel-hda,id=hda,addr=8",
    "-device",
    "hda-duplex,bus=hda.0",
];

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a_sound_card_that_a_process_has_open")
            .limit(240)
            .disk(DISK)
            .qemu(&CARD)
            .script(script(), check),
        Scenario::new("a_killed_command_whose_call_sleeps")
            .limit(180)
            .disk(DISK)
            .qemu(&CARD)
            .degraded(&[&["no-reset"]])
            .script(killed(), check_killed),
    ]
}

/// `hold` opens the card's control node, and `let_go` closes it. `timed NAME COMMAND` reports how
/// long a command takes.
const HELPERS: &str = "\
    drivers_but() { for d in $sys/*; do b=$(basename $d); [ $b = $1 ] || \
        echo $b $(driver_of $b) $(cat $d/driver_override); done; }\n\
    hold() { sleep 1000 9<>/dev/snd/controlC0 & holder=$!; sleep 0.3; }\n\
    let_go() { kill $holder; wait $holder || :; sleep 0.5; }\n\
    timed() { name=$1; shift; from=$(milliseconds); \"$@\"; \
        say took $name $(($(milliseconds) - from)); }\n\
    under_way() { say under-way $1 \
        $(grep -c under_way /run/mini-vmm/under-way 2>/dev/null || :); }\n\
    for _ in $(seq 100); do [ -e /dev/snd/controlC0 ] && break; sleep 0.1; done\n";

fn script() -> String {
    let bdf = DISK.bdf();
    format!(
        "{HELPERS}\
         drivers >/run/drivers\nsay card $(driver_of {SOUND}) $(ls /dev/snd | tr '\\n' ' ')\n\
         host check {SOUND}\n\
         hold\nsay holder $holder\n\
         host bind {SOUND}\nhost bind {SOUND} --dry-run\nhost check {SOUND}\nstate refused\n\
         run_vmm $boot --vfio {SOUND},managed=on\nstate managed-refused\n\
         timed force host bind {SOUND} --force\nunder_way begun\n\
         timed list host list\n\
         timed again host bind {SOUND} --force\ntimed unbind host unbind {SOUND}\n\
         timed check host check {SOUND}\n\
         drivers_but {SOUND} >/run/others\n\
         timed disk host bind {bdf}\nsay disk $(driver_of {bdf})\n\
         run_vmm $boot --memory 256M --cmdline \"$cmdline\" --vfio {bdf}\n\
         host unbind {bdf}\nsay_back {bdf}\n\
         drivers_but {SOUND} >/run/others.now\n\
         cmp -s /run/others /run/others.now && say others same\n\
         let_go\nhost unbind {SOUND}\nsay sound $(driver_of {SOUND})\nunder_way ended\n\
         state given-back\n\
         timed free host bind {SOUND}\nsay sound $(driver_of {SOUND})\nhost unbind {SOUND}\n\
         state end\n"
    )
}

/// The values of `took NAME MILLISECONDS`.
fn took(outcome: &Outcome, name: &str) -> Result<u64> {
    let mut lines = outcome.transcript.lab("took");
    let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.ok_or_else(|| lab::error::Error::failed(format!("L1 did not say how long {name} took")))
}

fn said(outcome: &Outcome, key: &str, words: &[&str]) -> Result<()> {
    // The lines of a list and of a check are wrapped.
    let all: Vec<_> = outcome.transcript.lab(key).map(str::trim).collect();
    let all = all.join(" ");
    words.iter().try_for_each(|word| {
        expect(all.contains(word), || {
            format!("no {key} says \"{word}\": {all}")
        })
    })
}

fn facts(outcome: &Outcome, key: &str, wanted: &[&str]) -> Result<()> {
    let seen: Vec<_> = outcome.transcript.lab(key).collect();
    expect(seen == wanted, || {
        format!("L1 saw {key} {seen:?} instead of {wanted:?}")
    })
}

fn check(outcome: &Outcome) -> Result<()> {
    let states = ["refused", "managed-refused", "given-back", "end"];
    let states = states.map(|state| format!("{state} same records=0"));
    facts(outcome, "state", &states.each_ref().map(String::as_str))?;
    let holder = outcome.transcript.lab("holder").next().unwrap_or_default();
    let held = format!("sleep (process {holder}) has /dev/snd/controlC0 open");
    said(outcome, "host-err", &[&held, "--force", "is under way"])?;
    let waits = format!("the call waits for sleep (process {holder}) with /dev/snd/controlC0 open");
    said(
        outcome,
        "host-err",
        &[&waits, "snd_hda_intel/unbind", &format!("kill {holder}")],
    )?;
    said(
        outcome,
        "host-out",
        &["is under way: the kernel has not ended", "FAIL  under-way"],
    )?;
    // A claim names what was looked at.
    said(
        outcome,
        "host-out",
        &["no use found: no process with an open or mapped node"],
    )?;
    let managed = run(outcome, 0)?;
    exit(&managed, 1)?;
    expect(managed.messages().any(|m| m.contains(&held)), || {
        "a run bound a sound card that a process has open".into()
    })?;
    // The limit is ten seconds, and L1 is slow.
    let force = took(outcome, "force")?;
    expect((9_500..15_000).contains(&force), || {
        format!("the forced bind took {force} ms")
    })?;
    for quick in ["list", "again", "unbind", "check", "disk"] {
        let time = took(outcome, quick)?;
        expect(time < 5_000, || format!("{quick} took {time} ms"))?;
    }
    facts(outcome, "disk", &["vfio-pci"])?;
    facts(outcome, "others", &["same"])?;
    facts(outcome, "sound", &["snd_hda_intel", "vfio-pci"])?;
    facts(outcome, "under-way", &["begun 1", "ended"])?;
    // check, bind, --dry-run, check, --force, list, again, unbind, check, the disk and its unbind,
    // unbind, bind, unbind
    let exits = [
        "0", "1", "1", "1", "1", "0", "1", "1", "1", "0", "0", "0", "0", "0",
    ];
    facts(outcome, "host-exit", &exits)?;
    let guest = run(outcome, 1)?;
    ended_well(&guest)?;
    worked(outcome, &guest, &DISK)?;
    back_with_guest_text(outcome, &DISK)
}

/// SIGKILL to the command while the process of its call sleeps, and to a run with `managed=on`.
fn killed() -> String {
    let bdf = DISK.bdf();
    format!(
        "{HELPERS}\
         drivers >/run/drivers\nhold\n\
         mini-vmm host bind {SOUND} --force --timeout 600 & pid=$!\nsleep 2\n\
         say living $(driver_of {SOUND})\n\
         timed beside host bind {bdf}\nhost unbind {bdf}\n\
         kill -KILL $pid\nwait $pid || say killed $?\n\
         timed unbind host unbind {SOUND}\ntimed disk host bind {bdf}\nhost unbind {bdf}\n\
         let_go\nhost unbind {SOUND}\nstate killed\n\
         start_as '' mini-vmm $boot --memory 256M --cmdline \"$cmdline\" \
         --vfio {SOUND},managed=on --host-timeout 3\nwait_vmm\nstate managed\n"
    )
}

fn check_killed(outcome: &Outcome) -> Result<()> {
    facts(outcome, "living", &["none"])?;
    facts(outcome, "killed", &["137"])?;
    let states = ["killed", "managed"].map(|state| format!("{state} same records=0"));
    facts(outcome, "state", &states.each_ref().map(String::as_str))?;
    said(
        outcome,
        "host-err",
        &["is under way", "snd_hda_intel/unbind"],
    )?;
    facts(outcome, "host-exit", &["0", "0", "1", "0", "0", "0"])?;
    for quick in ["beside", "unbind", "disk"] {
        let time = took(outcome, quick)?;
        expect(time < 5_000, || format!("{quick} took {time} ms"))?;
    }
    ended_well(&run(outcome, 0)?)
}
