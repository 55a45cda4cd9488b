//! What must not change, compared with golden files (`common/golden.rs`): flags, exit statuses, the
//! keys of the JSON and how a guest gets each register of a function.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::golden::{check, shape, values_of};
use crate::process::PROGRAM;
use crate::sandbox::{MEDIATED, Outcome, Sandbox};

/// The groups of `exits.txt`: what they show, and command lines, a line each.
const COMMAND_LINES: &[(&str, &str)] = &[
    ("the program", include_str!("../golden/lines/program.txt")),
    ("--cpus", include_str!("../golden/lines/cpus.txt")),
    ("--memory", include_str!("../golden/lines/memory.txt")),
    ("--vfio", include_str!("../golden/lines/vfio.txt")),
    ("host", include_str!("../golden/lines/host.txt")),
];

/// The help of each command without its prose.
#[test]
fn flags_are_kept() {
    let mut text = String::new();
    describe(&[], &mut text);
    check("flags.txt", &text);
}

/// Adds what `--help` of a command shows: usage, commands, arguments and flags with value names,
/// defaults, possible values and aliases. Then the same of the commands below it.
fn describe(command: &[&str], text: &mut String) {
    let output = Command::new(PROGRAM)
        .args(command)
        .arg("--help")
        // On one line what belongs together.
        .env("COLUMNS", "9999")
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    let _ = writeln!(text, "# mini-vmm {}", command.join(" "));
    let mut section = "";
    let mut commands = Vec::new();
    for line in help.lines().map(str::trim) {
        match line.split_once(':') {
            _ if line.is_empty() => section = "",
            Some(("Usage", usage)) => {
                section = "Usage";
                let _ = writeln!(text, "{}", usage.trim());
            }
            Some((heading @ ("Commands" | "Arguments" | "Options"), "")) => section = heading,
            _ if section == "Usage" => {
                let _ = writeln!(text, "{line}");
            }
            _ if !section.is_empty() => {
                let (what, prose) = line.split_once("  ").unwrap_or((line, ""));
                if section == "Commands" {
                    commands.push(what);
                }
                let _ = writeln!(text, "  {what}{}", facts(prose));
            }
            _ => {}
        }
    }
    for below in commands {
        describe(&[command, &[below]].concat(), text);
    }
}

/// The parts in brackets that clap adds to a flag's description.
fn facts(description: &str) -> String {
    let known = ["[default: ", "[possible values: ", "[alias: ", "[aliases: "];
    let starts = known.iter().filter_map(|known| description.find(known));
    let first = starts.min().unwrap_or(description.len());
    let space = if first < description.len() { " " } else { "" };
    format!("{space}{}", &description[first..])
}

/// Good and bad command lines on the made-up host, each with its exit status and its output: `out`
/// is text on standard output; standard error has `warning`, `usage`, `error` or `error, hint`.
#[test]
fn exit_statuses_are_kept() {
    let Some(host) = Sandbox::new() else {
        return;
    };
    let mut text = String::new();
    for (group, lines) in COMMAND_LINES {
        let _ = writeln!(text, "# {group}");
        for (line, outcome) in lines.lines().zip(host.run(lines)) {
            let _ = writeln!(text, "{} {:11} | {line}", outcome.status, wrote(&outcome));
        }
    }
    check("exits.txt", &text);
}

/// Which of the forms of output this is.
fn wrote(outcome: &Outcome) -> String {
    let error = &outcome.stderr;
    let warns = |line: &&str| line.starts_with(" WARN ");
    let levels = [" WARN ", " INFO ", "DEBUG ", "TRACE "];
    let is_log = |line: &str| levels.iter().any(|level| line.starts_with(level));
    let lines: Vec<_> = error.lines().filter(|line| !is_log(line)).collect();
    let warning = if error.lines().any(|line| warns(&line)) {
        "warning"
    } else {
        ""
    };
    let begins = |line: &str, with: &str| line.starts_with(with);
    let error = match lines[..] {
        [] => "",
        [first, ..] if begins(first, "error: ") => "usage",
        // A command that needs another shows its help.
        [_, _, usage, ..] if begins(usage, "Usage: ") => "usage",
        [one] if begins(one, "mini-vmm: ") => "error",
        [one, two] if begins(one, "mini-vmm: ") && begins(two, "hint: ") => "error, hint",
        _ => panic!("{error}"),
    };
    let out = if outcome.stdout.is_empty() { "" } else { "out" };
    let all = [out, warning, error].into_iter();
    let all = all.filter(|text| !text.is_empty());
    all.collect::<Vec<_>>().join(", ")
}

/// The JSON that the program prints on the made-up host, whatever its exit status.
fn json(host: &Sandbox, line: &str) -> Value {
    let outcome = &host.run(line)[0];
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:?}"))
}

#[test]
fn json_of_the_host_is_kept() {
    let Some(host) = Sandbox::new() else {
        return;
    };
    let list = json(&host, "host list --all --json");
    let mut text = format!("# host list --all --json\n{}", shape(&list));
    for key in ["address", "group", "state", "class", "driver", "held_by"] {
        let _ = writeln!(text, "{key}: {}", values_of(&list["devices"], key));
    }
    let bars = &list["devices"][1]["bars"];
    let _ = writeln!(text, "space: {}", values_of(bars, "space"));
    let of_pci = list["devices"][1]["mediated_devices"].as_array();
    let mediated: Vec<_> = of_pci
        .into_iter()
        .chain(list["mediated_devices"].as_array())
        .flatten()
        .cloned()
        .collect();
    for key in ["parent", "type", "api", "state"] {
        let values = values_of(&Value::Array(mediated.clone()), key);
        let _ = writeln!(text, "mediated {key}: {values}");
    }

    let addresses = "01:00.0 02:00.0 03:00.0 04:10.0 05:00.0";
    let report = json(&host, &format!("host check --json {addresses}"));
    let checks = &report["checks"];
    let _ = write!(text, "# host check --json\n{}", shape(&report));
    for key in ["name", "device", "level"] {
        let _ = writeln!(text, "{key}: {}", values_of(checks, key));
    }
    check("host.txt", &text);
}

#[test]
fn json_of_explain_is_kept() {
    let Some(host) = Sandbox::new() else {
        return;
    };
    let plain = json(&host, "explain --json --vfio 04:00.0,slot=03.0");
    let full = json(&host, "explain --json --vfio 01:00.0");
    let both = Value::Array(vec![plain.clone(), full.clone()]);
    let mut text = format!("# explain --json\n{}", shape(&both));
    for (what, report) in [("ordinary", &plain), ("all capabilities", &full)] {
        let device = &report["devices"][0];
        let _ = writeln!(text, "# {what}: registers");
        add_values(
            &device["registers"],
            &["offset", "length", "host", "guest", "treatment"],
            &mut text,
        );
        let _ = writeln!(text, "# {what}: BARs");
        let keys = ["index", "size", "guest", "mapped", "trapped"];
        add_values(&device["bars"], &keys, &mut text);
        let _ = writeln!(text, "# {what}: interrupts");
        add_values(&device["interrupts"], &["kind", "vectors"], &mut text);
        let _ = writeln!(text, "# {what}: memory");
        let keys = ["depth", "start", "last", "size"];
        add_values(&report["guest_memory"], &keys, &mut text);
    }
    check("explain.txt", &text);
}

/// Where a device is in the guest, and why.
#[test]
fn explain_gives_the_reason_for_a_port() {
    let Some(host) = Sandbox::new() else {
        return;
    };
    let endpoint = "behind a root port: it is a PCI Express endpoint";
    for (option, guest, port, reason, link) in [
        (
            "",
            "0000:01:00.0",
            Some("0000:00:01.0"),
            endpoint,
            Some("2.5 GT/s x1"),
        ),
        (
            ",port=on,slot=05.0",
            "0000:01:00.0",
            Some("0000:00:05.0"),
            "behind a root port: `port=on`",
            Some("2.5 GT/s x1"),
        ),
        (
            ",port=off",
            "0000:00:01.0",
            None,
            "on bus 0: `port=off`",
            None,
        ),
    ] {
        let report = json(&host, &format!("explain --json --vfio 04:00.0{option}"));
        let device = &report["devices"][0];
        let text = |key: &str| device[key].as_str();
        assert_eq!(text("guest"), Some(guest), "{option}");
        assert_eq!((text("port"), text("link")), (port, link), "{option}");
        assert_eq!(text("port_reason"), Some(reason), "{option}");
        // The link registers, at 0x5c of the device.
        let shown = device["registers"].as_array().unwrap().iter();
        let link = shown.filter(|row| row["name"] == "link capabilities");
        let link: Vec<_> = link.map(|row| row["guest"].as_str()).collect();
        assert_eq!(link, [port.map(|_| "00000011")], "{option}");
        let outcome = &host.run(&format!("explain --vfio 04:00.0{option}"))[0];
        assert!(
            outcome.stdout.contains(&format!("It is {reason}")),
            "{option}"
        );
    }
}

/// A line for each element of an array, with the values of these keys.
fn add_values(array: &Value, keys: &[&str], text: &mut String) {
    for element in array.as_array().unwrap() {
        let values: Vec<_> = keys.iter().map(|key| element[key].to_string()).collect();
        let _ = writeln!(text, "{}", values.join(" "));
    }
}

/// A mediated device is not explained without the device; that stays an error.
#[test]
fn a_mediated_device_is_not_explained_by_sysfs() {
    let Some(host) = Sandbox::new() else {
        return;
    };
    let outcome = &host.run(&format!("explain --vfio {MEDIATED}"))[0];
    assert_eq!((outcome.status, &*outcome.stdout), (1, ""));
}

/// The names that `phases[].name` of the statistics can have: some need a real device, so they are
/// read from the program's text.
#[test]
fn names_of_phases_are_kept() {
    let mut names = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut names,
    );
    names.sort();
    names.dedup();
    check("phases.txt", &(names.join("\n") + "\n"));
}

/// Adds the names given to `phase!` in the files below a folder, but for those in unit tests.
fn collect(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\nmod tests {").next().unwrap_or_default();
            let calls = code.split("phase!(\"").skip(1);
            names.extend(calls.filter_map(|call| Some(call.split_once('"')?.0.to_string())));
        }
    }
}

/// What `mmap=off` and `irqfd=off` change.
#[test]
fn explain_shows_what_is_off() {
    let Some(host) = Sandbox::new() else {
        return;
    };
    for (option, mapped, thread) in [
        ("", true, false),
        (",mmap=off", false, false),
        (",irqfd=off", true, true),
        (",mmap=off,irqfd=off", false, true),
    ] {
        let report = json(&host, &format!("explain --json --vfio 04:00.0{option}"));
        let device = &report["devices"][0];
        let sum = |key: &str| -> u64 {
            let bars = device["bars"].as_array().unwrap().iter();
            let parts = bars.flat_map(|bar| bar[key].as_array().unwrap());
            parts.map(|part| part["size"].as_u64().unwrap()).sum()
        };
        assert_eq!(sum("mapped") > 0, mapped, "{option}");
        assert!(sum("trapped") > 0, "{option}");
        let ways = device["interrupts"].as_array().unwrap();
        assert!(!ways.is_empty());
        for way in ways {
            let way = way["way"].as_str().unwrap();
            assert_eq!(way.contains("(irqfd=off)"), thread, "{option}: {way}");
        }
    }
}
