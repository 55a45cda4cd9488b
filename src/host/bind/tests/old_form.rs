//! Files of version 1 from a killed program are recovered as the old program would have done.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A fixture, its host, and the devices that its unbind named.
type Fixture = (&'static str, fn() -> FakeHost, &'static [&'static str]);

const FIXTURES: [Fixture; 7] = [
    (include_str!("fixtures/disk.txt"), one_disk, &[DISK]),
    // Bound for a run, and given back by the run.
    (include_str!("fixtures/run.txt"), one_disk, &[DISK]),
    // With an override and a module.
    (
        include_str!("fixtures/reserved.txt"),
        reserved_disk,
        &[DISK],
    ),
    // On vfio-pci before, for a user.
    (include_str!("fixtures/nodes.txt"), vfio_disk, &[DISK]),
    // Two devices for one user and then for another: the journal holds records from before.
    (
        include_str!("fixtures/next-user.txt"),
        two_disks,
        &[DISK, "0000:04:00.0"],
    ),
    // With `--group --user`.
    (
        include_str!("fixtures/group.txt"),
        shared_group,
        &["0000:02:00.0"],
    ),
    // With `--vfs 2 --user`.
    (
        include_str!("fixtures/functions.txt"),
        physical_function,
        &["0000:03:00.0"],
    ),
];

fn reserved_disk() -> FakeHost {
    let host = one_disk();
    host.set(DISK, "driver_override", "nvme\n");
    symlink(
        "/sys/module/nvme",
        host.host().driver_path("nvme").join("module"),
    )
    .unwrap();
    host
}

fn vfio_disk() -> FakeHost {
    FakeHost::new(&["vfio-pci"]).device(DISK, NVME, Some("vfio-pci"), Some(1))
}

fn two_disks() -> FakeHost {
    one_disk().device("0000:04:00.0", NVME, Some("nvme"), Some(4))
}

/// One kill: the changes before the kill, the files after it, and the old program's recovery.
#[derive(Default)]
struct Kill<'a> {
    how: &'a str,
    changes: Vec<&'a str>,
    files: Vec<(&'a str, String)>,
    next_command: Vec<&'a str>,
    records_left: Vec<&'a str>,
    unbind: Vec<&'a str>,
}

fn kills(fixture: &str) -> Vec<Kill<'_>> {
    let mut kills: Vec<Kill> = Vec::new();
    let mut part = "";
    for line in fixture.lines() {
        if let Some(how) = line.strip_prefix("== ") {
            kills.push(Kill {
                how,
                ..Kill::default()
            });
            continue;
        }
        let kill = kills.last_mut().unwrap();
        if let Some(name) = line.strip_prefix("-- ") {
            part = name;
            if let Some(file) = name.strip_prefix("file ") {
                kill.files.push((file, String::new()));
            }
            continue;
        }
        match part {
            "changes" => kill.changes.push(line),
            "next command" => kill.next_command.push(line),
            "records left" => kill.records_left.push(line),
            "unbind" => kill.unbind.push(line),
            _ => {
                let (_, text) = kill.files.last_mut().unwrap();
                text.push_str(&format!("{line}\n"));
            }
        }
    }
    kills
}

/// Makes the host what it was at the kill.
fn replay(fake: &FakeHost, kill: &Kill) {
    let root = fake.dir.as_path();
    for change in &kill.changes {
        let (command, path) = change.rsplit_once(" /").unwrap();
        let path = root.join(path);
        if let Some(owner) = command.strip_prefix("chown ") {
            let (uid, gid) = owner
                .split_once(':')
                .map_or((owner, None), |(u, g)| (u, Some(g)));
            let gid = gid.map(|gid| gid.parse().unwrap());
            fake.kernel.chown(&path, uid.parse().unwrap(), gid).unwrap();
            continue;
        }
        let text = command
            .strip_prefix("echo")
            .unwrap()
            .strip_suffix('>')
            .unwrap()
            .trim();
        let end = if path.ends_with("driver_override") {
            "\n"
        } else {
            ""
        };
        fake.kernel.write(&path, &format!("{text}{end}")).unwrap();
    }
    let run = root.join("run");
    fs::create_dir_all(&run).unwrap();
    for (name, text) in &kill.files {
        let text = text.replace("ROOT", root.to_str().unwrap());
        fs::write(run.join(name), text).unwrap();
    }
    fake.kernel.log();
}

#[test]
fn what_an_old_program_left_is_recovered_as_it_would_have_done() {
    for (fixture, make, addresses) in FIXTURES {
        let kills = kills(fixture);
        assert!(kills.len() > 5);
        for kill in &kills {
            let fake = make();
            let before = fake.snapshot();
            replay(&fake, kill);
            let host = fake.host();
            bind(&host, &BindRequest::default()).unwrap();
            assert_eq!(fake.kernel.log(), kill.next_command, "{}", kill.how);
            assert_eq!(host.records.begun().unwrap(), []);
            assert!(host.records.damaged().unwrap().is_empty());
            let records = host.records.all().unwrap();
            let left: Vec<_> = records.iter().map(|r| r.bdf.to_string()).collect();
            assert_eq!(left, kill.records_left, "{}", kill.how);
            // If there is nothing to give back, an unbind is an error, as in the old program.
            let _ = unbind(&host, &back(addresses));
            assert_eq!(fake.kernel.log(), kill.unbind, "{}", kill.how);
            assert_eq!(host.records.all().unwrap(), []);
            assert_eq!(fake.snapshot(), before, "{}", kill.how);
        }
    }
}

/// The recovery is killed too. Then records of both forms exist side by side.
#[test]
fn a_killed_recovery_of_what_an_old_program_left_is_recovered() {
    for (fixture, make, addresses) in FIXTURES {
        for kill in kills(fixture) {
            let fake = make();
            replay(&fake, &kill);
            let host = fake.host();
            while until_killed(|| {
                fake.kernel.set_fault(Fault::Killed(1));
                bind(&host, &BindRequest::default())
            })
            .is_none()
            {}
            fake.kernel.set_fault(Fault::Never);
            let records = host.records.all().unwrap();
            let left: Vec<_> = records.iter().map(|r| r.bdf.to_string()).collect();
            assert_eq!(left, kill.records_left, "{}", kill.how);
            let _ = unbind(&host, &back(addresses));
            assert_eq!(host.records.all().unwrap(), []);
        }
    }
}
