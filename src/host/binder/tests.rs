//! A run asks for devices of a made-up host.

use std::process::Command;
use std::thread;

use vmm::broker::{Device, Right};

use super::*;
use crate::bind::fake::FakeHost;

const DISK: &str = "0000:01:00.0";
const NET: &str = "0000:02:00.0";
const USERS: &str = "0000:03:00.0";

fn fake() -> FakeHost {
    FakeHost::new(&["nvme", "e1000e", "vfio-pci"])
        .device(DISK, 0x01_0802, Some("nvme"), Some(1))
        .device(NET, 0x02_0000, Some("e1000e"), Some(2))
        .device(USERS, 0x01_0802, Some("nvme"), Some(3))
}

#[test]
fn devices_are_bound_and_given_back_one_by_one() {
    let fake = fake();
    let (ours, theirs) = Packets::pair().unwrap();
    let run = Process::this().unwrap();
    let host = fake.host();
    let binder = Binder::over(ours, fake.host(), Duration::from_secs(10)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| serve(&theirs, &host, run, &Named::any()));
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        binder.give_back(&names(&[DISK]));
        assert!(!binder.was_used());
        binder.bind(&names(&[DISK])).unwrap();
        binder.bind(&names(&[NET])).unwrap();
        for device in [DISK, NET] {
            assert_eq!(fake.driver(device).as_deref(), Some("vfio-pci"), "{device}");
        }
        // Only what is named, and what the run has.
        binder.give_back(&names(&[DISK, USERS]));
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        assert_eq!(fake.driver(NET).as_deref(), Some("vfio-pci"));
        let e = binder.bind(&names(&["0000:09:00.0"])).unwrap_err();
        assert!(e.to_string().contains("0000:09:00.0"), "{e}");
        assert!(e.hint().is_some());
        binder.give_back(&names(&[NET]));
        assert_eq!(fake.driver(NET).as_deref(), Some("e1000e"));
        binder.hang_up();
    });
    let e = binder.bind(&[DISK.into()]).unwrap_err();
    assert!(e.to_string().contains("has ended"), "{e}");
}

/// A process that is stopped, or waits for a command that is.
#[test]
fn an_answer_that_does_not_come_is_not_waited_for_without_end() {
    let limit = Duration::from_millis(20);
    let (ours, theirs) = Packets::pair().unwrap();
    let binder = Binder::over(ours, fake().host(), limit).unwrap();
    let e = binder.bind(&[DISK.into()]).unwrap_err();
    assert!(e.to_string().contains("does not answer"), "{e}");
    assert!(e.hint().unwrap().contains("vmm-binder"));
    // A late answer is nobody's.
    assert!(theirs.send(&[DONE], &[]).is_err());
    let e = binder.bind(&[DISK.into()]).unwrap_err();
    assert!(e.to_string().contains("has ended"), "{e}");
}

#[test]
fn the_end_of_a_run_waits_for_one_call() {
    let (ours, _theirs) = Packets::pair().unwrap();
    let limit = Duration::from_millis(200);
    let binder = Binder::over(ours, fake().host(), limit).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let begun = Instant::now();
            let e = binder.bind(&[DISK.into()]).unwrap_err();
            (begun.elapsed(), e.to_string())
        });
        binder.end();
        let (took, text) = asked.join().unwrap();
        assert!(text.contains("does not answer"), "{text}");
        // Twelve calls are waited for otherwise.
        assert!(took >= limit && took < 12 * limit, "{took:?}");
    });
}

/// Asks for a disk and more. Returns when nobody answers any more.
fn bound_and(more: impl FnOnce(&Binder)) -> (FakeHost, Binder) {
    let fake = fake();
    let run = Process::this().unwrap();
    let host = fake.host();
    let (ours, theirs) = Packets::pair().unwrap();
    let binder = Binder::over(ours, fake.host(), Duration::from_secs(10)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || serve(&theirs, &host, run, &Named::any()));
        binder.bind(&[DISK.into()]).unwrap();
        more(&binder);
    });
    (fake, binder)
}

#[test]
fn devices_of_a_run_that_lives_stay_when_it_asks_no_more() {
    let (fake, _) = bound_and(Binder::hang_up);
    assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
}

/// Nothing is bound for a run that has said that it ends.
#[test]
fn giving_all_devices_back_is_the_last_request() {
    let (fake, binder) = bound_and(|binder| {
        let lines = binder.release(&[]).unwrap();
        assert!(lines.contains(DISK), "{lines}");
    });
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    let e = binder.bind(&[NET.into()]).unwrap_err();
    assert!(e.to_string().contains("has ended"), "{e}");
    assert_eq!(fake.driver(NET).as_deref(), Some("e1000e"));
}

#[test]
fn nothing_is_bound_for_a_run_that_was_killed() {
    let fake = fake();
    let run = Process {
        pid: std::process::id(),
        started: 1,
    };
    let answer = answer(&fake.host(), run, &Named::any(), BIND, DISK.as_bytes());
    assert_eq!(answer.first(), Some(&FAILED));
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
}

/// A run that its guest has taken over asks for what no flag and no client has named.
#[test]
fn a_confined_run_gets_its_own_devices_alone() {
    let fake = fake();
    let run = Process::this().unwrap();
    let (ours, theirs) = Packets::pair().unwrap();
    let (news, heard) = Packets::pair().unwrap();
    let host = fake.host();
    let device = |name: &str, right| Device {
        name: name.parse().unwrap(),
        right,
    };
    let all = [
        device(NET, Right::Open),
        // A client of the run's user has named it (`--run-as`).
        device(USERS, Right::AsUser),
    ];
    let named = Named::only(all).hearing(heard);
    let binder = Binder::over(ours, fake.host(), Duration::from_secs(10)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| serve(&theirs, &host, run, &named));
        // The second and the third were named without managed=on.
        for name in [
            DISK,
            NET,
            USERS,
            "01:00.0",
            "/sys/bus/pci/devices/0000:01:00.0",
        ] {
            let e = binder.ask(BIND, &[name.into()]);
            let Err(NoAnswer::Refused(text, Some(_))) = e else {
                panic!("{name} is bound");
            };
            assert!(text.contains("names managed=on for this run"), "{text}");
        }
        let both = [NET.into(), DISK.into()];
        let Err(NoAnswer::Refused(text, _)) = binder.ask(CHECK, &both) else {
            panic!("a foreign device is looked at");
        };
        assert!(
            text.starts_with(DISK) && text.contains("names it"),
            "{text}"
        );
        assert!(binder.ask(CHECK, &[NET.into()]).is_ok());
        // A client names the disk, which the other process sees.
        news.send(&[&[2], DISK.as_bytes()].concat(), &[]).unwrap();
        binder.bind(&[DISK.into()]).unwrap();
        assert_eq!(fake.driver(DISK).as_deref(), Some("vfio-pci"));
        assert_eq!(fake.driver(NET).as_deref(), Some("e1000e"));
        let disk = [DISK.into()];
        binder.give_back(&disk);
        assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
        binder.hang_up();
    });
}

/// A note keeps later commands from the device.
#[test]
fn a_call_is_noted_for_the_runs_own_devices_alone() {
    let fake = FakeHost::new(&["vfio-pci"])
        .device(DISK, 0x01_0802, Some("vfio-pci"), Some(1))
        .device(NET, 0x02_0000, Some("vfio-pci"), Some(2));
    let host = fake.host();
    let run = Process::this().unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let caller = Process::of(child.id()).unwrap();
    let named = Named::only([Device {
        name: DISK.parse().unwrap(),
        right: Right::Open,
    }]);
    for (name, noted) in [(NET, false), (DISK, true)] {
        let words = format!("{name}\nopen\n{}\n{}", caller.pid, caller.started);
        answer(&host, run, &named, NOTE, words.as_bytes());
        let refused = bind::check_calls(&host, [name]).is_err();
        assert_eq!(refused, noted, "{name}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
