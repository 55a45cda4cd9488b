//! The command line itself.

use crate::process::{PROGRAM, refused};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = assert_cmd::Command::new(PROGRAM)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn mistakes_end_with_2() {
    for arguments in [
        &[][..],
        &["--initrd", "x"],
        &["--kernel"],
        &["--kernel", ""],
        &["--kernel", "x", "--frobnicate"],
        &["--kernel", "x", "stray"],
        &["--kernel", "x", "--cpus", "0"],
        &["--kernel", "x", "--cpus", "256"],
        &["--kernel", "x", "--cpus", "many"],
        &["--kernel", "x", "--cpus", ""],
        &["--kernel", "x", "--cpus", "0,idle=native"],
        &["--kernel", "x", "--ports", "0"],
        &["--kernel", "x", "--ports", "249"],
        &["--kernel", "x", "--ports", "many"],
        &["--kernel", "x", "--ports", "-1"],
        &["--kernel", "x", "--ports", ""],
        &["--kernel", "x", "--ports", "1", "--ports", "2"],
        &["--kernel", "x", "--kernel", "y"],
        &["host", "frobnicate"],
        &["host", "bind"],
        &["host", "bind", "01:00.0", "--vfs", "0"],
        &["host", "bind", "01:00.0", "--vfs", "2", "--group"],
        &["host", "unbind"],
        &["--kernel", "x", "host", "list"],
        &["completions", "tcsh"],
    ] {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
        assert!(stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_teaches() {
    let (status, help, stderr) = run(&["--help"]);
    assert_eq!((status, &*stderr), (Some(0), ""));
    for flag in [
        "--kernel",
        "--initrd",
        "--cmdline",
        "--cpus",
        "--memory",
        "--vfio",
        "rombar=off",
        "romfile=PATH",
        "--no-reboot",
        "hugepages=2M",
        "prefault=on",
        "shared=on",
        "check=off",
        "pin=LIST",
        "idle=native",
        "--ports",
        "mem32=SIZE",
        "mem64=SIZE",
        "io=on",
        "--stats",
        "-v",
    ] {
        assert!(help.contains(flag), "{flag} is not in {help}");
    }
    // How to bind a device, how to quit, and what the exit status means.
    for lesson in [
        "vfio-pci",
        "host bind",
        "host unbind",
        "managed=on",
        "Ctrl-A x",
        "SIGUSR1",
        "Exit status",
    ] {
        assert!(help.contains(lesson), "{lesson} is not in {help}");
    }
}

#[test]
fn the_version() {
    let (status, version, stderr) = run(&["--version"]);
    assert_eq!((status, &*stderr), (Some(0), ""));
    assert_eq!(
        version,
        concat!("mini-vmm ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn memory() {
    let sizes = "for example --memory 512M";
    for size in [
        "",
        "lots",
        "12X",
        "-5",
        "1.5G",
        "4 G",
        "99999999999999999999",
        "99999999T",
    ] {
        let message = format!("`{size}` is not a size of memory");
        refused(&["--kernel", "x", "--memory", size], &message, sizes);
    }
    for size in ["0", "1", "63M", "65532K"] {
        refused(
            &["--kernel", "x", "--memory", size],
            "the least is 64M",
            sizes,
        );
    }
}

#[test]
fn options_of_memory() {
    let there = "there are hugepages=, prefault=, shared= and check=";
    for (argument, message, hint) in [
        ("1G,", "`` is not an option of --memory 1G", there),
        (
            "1G,frob=on",
            "`frob=on` is not an option of --memory 1G",
            there,
        ),
        (
            "1G,shared",
            "`shared` is not an option of --memory 1G",
            there,
        ),
        (
            "1G,shared=maybe",
            "`maybe` is not a value for `shared`",
            "give on or off",
        ),
        (
            "1G,prefault=1",
            "`1` is not a value for `prefault`",
            "give on or off",
        ),
        (
            "1G,hugepages=4K",
            "`4K` is not a value for `hugepages`",
            "give 2M, 1G, thp or off",
        ),
        (
            "1G,hugepages=",
            "`` is not a value for `hugepages`",
            "give 2M, 1G, thp or off",
        ),
        (
            "1G,shared=on,shared=on",
            "`shared` is given twice",
            "give `shared` once",
        ),
        (
            "65M,hugepages=2M",
            "65M of memory is not a multiple of its 2 MiB pages",
            "2 MiB",
        ),
        (
            "1536M,hugepages=1G",
            "1536M of memory is not a multiple of its 1 GiB pages",
            "1 GiB",
        ),
        (
            "lots,hugepages=2M",
            "`lots` is not a size of memory",
            "--memory 512M",
        ),
        ("1M,prefault=on", "the least is 64M", "--memory 512M"),
    ] {
        refused(&["--kernel", "x", "--memory", argument], message, hint);
    }
}

#[test]
fn options_of_cpus() {
    let there = "there are pin=, idle=, nested=, pmu=, sockets=, cores= and threads=";
    for (argument, message, hint) in [
        ("1,", "`` is not an option of --cpus 1", there),
        ("1,2", "`2` is not an option of --cpus 1", there),
        ("1,dies=2", "`dies=2` is not an option of --cpus 1", there),
        (
            "1,idle=poll",
            "`poll` is not a value for `idle`",
            "give native or exit",
        ),
        (
            "1,idle=native,idle=exit",
            "`idle` is given twice",
            "give `idle` once",
        ),
        ("1,pin=", "`` is not a value for `pin`", "pin=0,2,4-7"),
        ("1,pin=x", "`x` is not a value for `pin`", "pin=0,2,4-7"),
        ("2,pin=0,0", "`0,0` is not a value for `pin`", "each once"),
        ("2,pin=1-0", "`1-0` is not a value for `pin`", "pin=0,2,4-7"),
        ("4,pin=0,2", "2 host CPUs are named for 4 vCPUs", "pin=0-3"),
        ("1,pin=0-1", "2 host CPUs are named for 1 vCPU", "pin=0"),
        ("4,cores=0", "`0` is not a value for `cores`", "1 or more"),
        (
            "1,threads=2",
            "1 vCPU cannot have 2 threads a core",
            "--cpus 4,sockets=1,cores=2,threads=2",
        ),
        (
            "255,sockets=5",
            "need APIC IDs up to 306, and the guest's interrupt controllers reach no ID above 254",
            "--cpus 255 alone",
        ),
    ] {
        refused(&["--kernel", "x", "--cpus", argument], message, hint);
    }
}

#[test]
fn options_of_ports() {
    for (argument, message, hint) in [
        (
            "1,bars=2",
            "`bars=2` is not an option of --ports 1",
            "there are mem32=, mem64= and io=, for example --ports 1,mem32=16M",
        ),
        (
            "1,mem32=0",
            "`0` is not a value for `mem32` of --ports 1",
            "give whole MiB, up to 512M, for example mem32=16M",
        ),
        ("1,mem64=1E", "`1E` is not a value for `mem64`", "mem64=64G"),
        ("1,io=1", "`1` is not a value for `io`", "give on or off"),
        (
            "200",
            "200 ports with 4 MiB each below 4 GiB do not fit: there are 512 MiB for all devices",
            "give less, for example mem32=2M, or --ports 128",
        ),
        (
            "20,io=on",
            "20 root ports cannot all have I/O ports: there are 15 windows of 4 KiB",
            "few devices need I/O ports: remove io=on, or give --ports 15",
        ),
    ] {
        refused(&["--kernel", "x", "--ports", argument], message, hint);
    }
}

/// explain lays the guest out as a run does: a bus with configuration space for each port.
#[test]
fn ports_in_explain() {
    let (status, stdout, stderr) = run(&["explain", "--ports", "2"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("0xe02fffff"), "{stdout}");
    let arguments = ["explain", "--ports", "248,mem32=1M,mem64=32T"];
    refused(&arguments, "do not fit beside", "with --memory");
}

/// A command that lacks its subcommand lists the subcommands, as git and cargo do.
#[test]
fn host_alone_teaches() {
    let (status, _, stderr) = run(&["host"]);
    assert_eq!(status, Some(2));
    for command in ["check", "list", "bind", "unbind"] {
        assert!(stderr.contains(command), "{command} in {stderr}");
    }
}

#[test]
fn completions_know_the_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, script, stderr) = run(&["completions", shell]);
        assert_eq!((status, &*stderr), (Some(0), ""));
        // A flag, and a verb of each command that has some.
        for word in ["vfio", "unbind", "power-button", "force"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_hosts_devices_are_listed() {
    let (status, list, stderr) = run(&["host", "list", "--all"]);
    assert_eq!((status, &*stderr), (Some(0), ""));
    let there: Vec<_> = std::fs::read_dir("/sys/bus/pci/devices")
        .map(|entries| entries.flatten().map(|e| e.file_name()).collect())
        .unwrap_or_default();
    for name in &there {
        let name = name.to_str().unwrap();
        assert!(list.contains(&format!(" {name}  ")), "{name} in {list}");
    }
    assert!(!list.contains('\x1b'), "colour where there is no terminal");
    assert!(
        list.lines().all(|line| line.chars().count() <= 80),
        "{list}"
    );

    let (status, json, stderr) = run(&["host", "list", "--all", "--json"]);
    assert_eq!((status, &*stderr), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["devices"].as_array().unwrap().len(), there.len());
}

/// The findings depend on the host. Text and JSON must agree on any host.
#[test]
fn the_host_is_checked() {
    let (status, text, stderr) = run(&["host", "check"]);
    assert!(stderr.is_empty(), "{stderr}");
    let failures = text.lines().filter(|l| l.starts_with("FAIL  ")).count();
    assert_eq!(status, Some(i32::from(failures > 0)), "{text}");

    let (again, json, _) = run(&["host", "check", "--json"]);
    assert_eq!(again, status);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["good"], failures == 0);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(
        checks.iter().filter(|c| c["level"] == "fail").count(),
        failures
    );
    for check in checks {
        let name = check["name"].as_str().unwrap();
        assert!(text.contains(&format!("  {name}")), "{name} in {text}");
        assert_eq!(check["level"] == "pass", check["fix"].is_null(), "{check}");
    }
}

#[test]
fn checks_of_what_is_not_there() {
    refused(
        &["host", "check", "nonsense"],
        "`nonsense` is not the address of a PCI device",
        "host list",
    );
    refused(
        &["host", "check", "00fe:fe:1f.7"],
        "there is no PCI device 00fe:fe:1f.7",
        "host list",
    );
    refused(
        &["host", "check", "--memory", "lots"],
        "`lots` is not a size of memory",
        "--memory 512M",
    );
}
