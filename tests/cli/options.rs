//! Options of `--memory` and `--cpus`, seen on the process that runs the guest.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::elf::TempFile;
use crate::kvm;
use crate::process::{PROGRAM, Running, check_refusal, kernel, refused};

/// Bytes at the start of RAM for which no huge pages are requested.
const FIRST: u64 = 2 << 20;
const RAM: u64 = 64 << 20;

/// A guest that prints "ready" and waits for a signal.
fn ready() -> TempFile {
    kernel(|g| {
        g.print("ready").hang();
    })
}

fn start(arguments: &[&str]) -> Running {
    let kernel = ready();
    let mut command = Command::new(PROGRAM);
    command.arg("--kernel").arg(kernel.path()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let run = Running::spawn(command, kernel);
    run.stdout.wait_for("ready");
    run
}

fn end(mut run: Running) {
    run.signal(libc::SIGTERM);
    run.ends_well();
}

/// The mappings of the guest's RAM in /proc/PID/smaps: their name, the resident bytes, and the
/// flags of the last. The first 2 MiB may be a mapping of their own.
fn ram_of(run: &Running) -> (String, u64, String) {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", run.pid())).unwrap();
    let mappings: Vec<_> = smaps.lines().filter_map(addresses).collect();
    let of_ram = |start: u64, end: u64| {
        let first = mappings.iter().find(|m| m.1 == start);
        end - start == RAM
            || (end - start == RAM - FIRST && first.is_some_and(|m| m.1 - m.0 == FIRST))
    };
    let (start, end) = *mappings
        .iter()
        .find(|m| of_ram(m.0, m.1))
        .unwrap_or_else(|| panic!("no mapping of 64 MiB in {smaps}"));
    let (mut inside, mut found) = (false, (String::new(), 0, String::new()));
    for line in smaps.lines() {
        if let Some(range) = addresses(line) {
            inside = end - RAM <= range.0 && range.1 <= end && range.0 <= start;
            if inside {
                found.0 = line.to_string();
            }
        } else if let (true, Some(kib)) = (inside, line.strip_prefix("Rss:")) {
            found.1 += kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
            found.2 = flags.to_string();
        }
    }
    found
}

/// The guest's RAM as another process opens it.
fn memfd_of(run: &Running) -> Option<fs::File> {
    let fds = fs::read_dir(format!("/proc/{}/fd", run.pid())).unwrap();
    let path = fds.map(|fd| fd.unwrap().path()).find(|path| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:guest-ram"))
    })?;
    let file = fs::File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), RAM);
    Some(file)
}

fn makes_huge_pages(shared: bool) -> bool {
    let file = if shared { "shmem_enabled" } else { "enabled" };
    let text = fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{file}"));
    text.is_ok_and(|text| !text.contains("[never]") && !text.contains("[deny]"))
}

/// The first line of a mapping.
fn addresses(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

#[test]
fn memory_is_as_asked_for() {
    if !kvm() {
        return;
    }
    for (options, shared, all, flag) in [
        ("", false, false, " hg"),
        (",hugepages=thp,prefault=on", false, true, " hg"),
        (",hugepages=off", false, false, " nh"),
        (",hugepages=off,prefault=on", false, true, " nh"),
        (",shared=on", true, false, " sh"),
        (",shared=on,hugepages=off,prefault=on", true, true, " nh"),
        (",prefault=off,shared=off", false, false, " hg"),
    ] {
        let mut run = start(&["--memory", &format!("64M{options}")]);
        let (name, present, flags) = ram_of(&run);
        assert_eq!(
            name.contains("memfd:guest-ram"),
            shared,
            "{options}: {name}"
        );
        assert_eq!(memfd_of(&run).is_some(), shared, "{options}");
        assert_eq!(present == RAM, all, "{options}: {present}");
        assert!(flags.contains(flag), "{options}: {flags}");
        // Not in core dumps.
        assert!(flags.contains(" dd"), "{options}: {flags}");
        // The kernel has a switch of its own for shared memory, which is off on most hosts.
        if !options.contains("hugepages=off") && !makes_huge_pages(shared) {
            run.signal(libc::SIGTERM);
            let told = (run.status(), run.stderr.text());
            assert_eq!(told.0, Some(0));
            assert!(
                told.1.contains("[no-huge-pages]; hint: as root: echo "),
                "{told:?}"
            );
        } else {
            end(run);
        }
    }
}

/// A guest gets huge pages of the host's reserve. If the reserve is too small, the message says how
/// many there are.
#[test]
fn huge_pages_are_the_hosts() {
    if !kvm() {
        return;
    }
    let number = |name: &str| -> Option<u64> {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}_hugepages");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let arguments = ["--memory", "64M,hugepages=2M"];
    let Some(free) = number("free") else {
        let kernel = ready();
        let arguments = [
            &["--kernel", kernel.path().to_str().unwrap()],
            &arguments[..],
        ]
        .concat();
        refused(&arguments, "no huge pages of 2 MiB", "hugepages=thp");
        return;
    };
    if free - number("resv").unwrap() >= 32 {
        let run = start(&arguments);
        let (_, _, flags) = ram_of(&run);
        assert!(flags.contains(" ht"), "{flags}");
        end(run);
    }
    // More than any host reserves.
    let kernel = ready();
    for options in ["hugepages=2M", "hugepages=2M,shared=on"] {
        let memory = format!("300G,{options}");
        let arguments = [
            "--kernel",
            kernel.path().to_str().unwrap(),
            "--memory",
            &memory,
        ];
        refused(
            &arguments,
            "takes 153600 huge pages of 2 MiB; this host has ",
            "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        );
    }
}

#[test]
fn memory_beyond_the_limit_of_addresses() {
    if !kvm() {
        return;
    }
    let kernel = ready();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 400000; exec \"$0\" \"$@\"", PROGRAM]);
    limited.arg("--kernel").arg(kernel.path());
    let output = limited.args(["--memory", "1G"]).output().unwrap();
    check_refusal(&output, "cannot reserve 1024 MiB", "--memory");
}

/// A host CPU that this process may use.
fn host_cpu() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let first = list.trim().split([',', '-']).next();
    first.unwrap().parse().unwrap()
}

#[test]
fn vcpus_are_where_they_are_put() {
    if !kvm() {
        return;
    }
    let cpu = host_cpu().to_string();
    let run = start(&["--memory", "64M", "--cpus", &format!("1,pin={cpu}")]);
    let tasks = fs::read_dir(format!("/proc/{}/task", run.pid())).unwrap();
    let statuses = tasks.map(|t| fs::read_to_string(t.unwrap().path().join("status")).unwrap());
    let status = statuses
        .into_iter()
        .find(|s| s.starts_with("Name:\tvcpu 0\n"))
        .expect("the vCPU's thread");
    let line = format!("Cpus_allowed_list:\t{cpu}\n");
    assert!(status.contains(&line), "{status}");
    end(run);

    let kernel = ready();
    for cpu in ["1023", "8191"] {
        let cpus = format!("1,pin={cpu}");
        let arguments = ["--kernel", kernel.path().to_str().unwrap(), "--cpus", &cpus];
        let message = format!("no vCPU can be pinned to host CPU {cpu}");
        refused(&arguments, &message, "name host CPUs of pin=");
    }
}

/// The guest runs where KVM can leave HLT to the guest; elsewhere the run is refused.
#[test]
fn idling_natively() {
    if !kvm() {
        return;
    }
    let can = kvm_ioctls::Kvm::new()
        .unwrap()
        .check_extension_raw(kvm_bindings::KVM_CAP_X86_DISABLE_EXITS.into());
    if u32::try_from(can).unwrap_or(0) & kvm_bindings::KVM_X86_DISABLE_EXITS_HLT != 0 {
        end(start(&["--memory", "64M", "--cpus", "2,idle=native"]));
    } else {
        let kernel = ready();
        let kernel = kernel.path().to_str().unwrap();
        let arguments = ["--kernel", kernel, "--cpus", "1,idle=native"];
        refused(&arguments, "cannot leave HLT to the guest", "idle=native");
    }
}
