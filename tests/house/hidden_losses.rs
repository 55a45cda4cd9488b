//! No loss is told where nobody sees it. The default log level hides `info!`, so each call is
//! listed here with the reason why it tells of no loss; a loss goes through `degraded::tell`. No
//! result is ignored without a reason.

use std::collections::BTreeSet;
use std::fs;

use crate::metadata::root;
use crate::names::Names;

/// Files with calls of `info!`, the beginning of each message, and why it is no loss.
const NO_LOSS: &[(&str, &str, &str)] = &[
    (
        "src/host/binder.rs",
        "{line}",
        "what binding a device did, as `host bind` prints it",
    ),
    (
        "src/host/managed.rs",
        "{line}",
        "what binding a device did, as `host bind` prints it",
    ),
    (
        "src/vmm/machine/devices.rs",
        "{} is {bdf} in the guest",
        "progress",
    ),
    (
        "src/vmm/machine/devices.rs",
        "{} is {address} in the guest",
        "progress",
    ),
    (
        "src/vmm/machine/port_choice.rs",
        "{name} is {decision}",
        "what `port=auto` has decided, and why; an endpoint that fits no port is a loss",
    ),
    (
        "src/vmm/machine/early.rs",
        "the devices are opened before the guest runs",
        "a start that takes as long as the devices",
    ),
    (
        "src/vmm/machine/opening.rs",
        "the devices are opened beside the guest",
        "progress",
    ),
    (
        "src/vmm/machine/devices.rs",
        "{why}",
        "a function's number, which a guest finds all the same",
    ),
    (
        "src/vmm/machine/ports.rs",
        "root port {} has {setup}",
        "what firmware set",
    ),
    (
        "src/vmm/machine/vcpus.rs",
        "HLT{} and PAUSE run in the guest",
        "what the user asked for; idle=native promises MWAIT only where KVM can",
    ),
    (
        "src/vmm/vfio/open/iommufd.rs",
        "by iommufd",
        "progress; a loss of that choice has a code",
    ),
    ("src/vmm/vfio/open/iommufd.rs", "{name} is open", "progress"),
    (
        "src/vmm/machine/plug_add.rs",
        "{name} is behind the root port at {} in the guest",
        "progress; an event tells of it",
    ),
    (
        "src/vmm/machine/plug_add.rs",
        "{why}",
        "a function's number, which a guest finds all the same",
    ),
    (
        "src/vmm/machine/plug_remove.rs",
        "{id} is not removed: {why}",
        "the guest keeps the device; an event tells of it",
    ),
    (
        "src/vmm/machine/plug_remove.rs",
        "{id} has left the guest",
        "progress; an event tells of it",
    ),
    (
        "src/vmm/machine/real_host.rs",
        "the guest's memory was unmapped for DMA:",
        "nothing uses it any more",
    ),
    (
        "src/vmm/vfio/open/containers.rs",
        "{e}",
        "another container takes the group",
    ),
    (
        "src/vmm/vfio/open/containers.rs",
        "container {containers},",
        "all memory is mapped in each container: the guest lacks nothing",
    ),
    (
        "src/vmm/vfio/open/containers.rs",
        "{name} is open",
        "progress",
    ),
    (
        "src/vmm/vfio/open/interface.rs",
        "by group and container: ",
        "the container can do all that iommufd can",
    ),
    (
        "src/vmm/vfio/function/command.rs",
        "{}: COMMAND cannot be written;",
        "the guest reads what it wrote, and a device of this kind does no DMA of its own",
    ),
    (
        "src/vmm/vfio/function/reset.rs",
        "{} had a hot reset",
        "progress",
    ),
    (
        "src/vmm/vfio/function/reset.rs",
        "{}: a reset by power it is",
        "opening has reset the device",
    ),
    ("src/vmm/vfio/function/reset.rs", "{} was reset", "progress"),
    ("src/vmm/machine.rs", "{}", "counts of exits"),
    (
        "src/vmm/machine.rs",
        "writes without an exit: ",
        "counts of exits",
    ),
    (
        "src/vmm/machine/ends.rs",
        "the guest reboots",
        "the guest's act",
    ),
    (
        "src/vmm/machine/ends.rs",
        "the guest's processor shut down",
        "the guest's act",
    ),
    ("src/vmm/machine.rs", "reset with slots=", "progress"),
    (
        "src/vmm/machine/maps.rs",
        "the guest's memory was unmapped",
        "progress",
    ),
    (
        "src/vmm/sandbox/process.rs",
        "sandbox: CAP_IPC_LOCK is kept",
        "the guest has what it has without the sandbox",
    ),
    (
        "src/vmm/sandbox/process.rs",
        "sandbox: other processes of this user can read this one",
        "what the user asked for; the guest lacks nothing",
    ),
    (
        "src/vmm/sandbox/process.rs",
        "{LIMITS}",
        "the guest has what it has without the sandbox",
    ),
    (
        "src/vmm/log/degraded.rs",
        "{loss}",
        "a loss that is in the list too",
    ),
    (
        "src/vmm/lifecycle.rs",
        "signal {number}: ending in order",
        "the user's act",
    ),
    (
        "src/vmm/devices/power.rs",
        "the guest powers off",
        "the guest's act",
    ),
    (
        "src/vmm/devices/power.rs",
        "the guest resets the machine",
        "the guest's act",
    ),
];

/// The lines of the program's files, without their tests.
fn program() -> Vec<(String, Vec<String>)> {
    let names = Names::read();
    let of_program = |path: &&String| {
        let file = path.rsplit('/').next().unwrap_or_default();
        path.starts_with("src/")
            && path.ends_with(".rs")
            && !path.contains("/tests/")
            && !["tests.rs", "fake.rs", "test_device.rs"].contains(&file)
    };
    let read = |path: &String| {
        let text = fs::read_to_string(root().join(path)).expect(path);
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = text.lines().map(str::to_owned).collect();
        (path.clone(), lines)
    };
    names.paths.iter().filter(of_program).map(read).collect()
}

/// The first string of each call of `info!`.
fn messages(lines: &[String]) -> Vec<String> {
    let code = lines
        .iter()
        .filter(|line| !line.trim_start().starts_with("//"));
    let text = code.cloned().collect::<Vec<_>>().join("\n");
    let calls = text.split("info!(").skip(1);
    let message = |call: &str| call.split('"').nth(1).unwrap_or_default().to_owned();
    calls.map(message).collect()
}

#[test]
fn no_info_tells_of_a_loss() {
    let mut unlisted = Vec::new();
    let mut used = BTreeSet::new();
    for (path, lines) in program() {
        for message in messages(&lines) {
            let mut known = NO_LOSS.iter().enumerate();
            match known.find(|(_, (file, text, _))| *file == path && message.starts_with(text)) {
                Some((index, _)) => _ = used.insert(index),
                None => unlisted.push(format!("{path}: {message}")),
            }
        }
    }
    assert!(
        unlisted.is_empty(),
        "a loss of the guest's is told by degraded::tell; any other message is listed in \
         tests/house/hidden_losses.rs:\n{}",
        unlisted.join("\n")
    );
    let unused = (0..NO_LOSS.len()).filter(|index| !used.contains(index));
    let unused: Vec<_> = unused.map(|index| NO_LOSS[index]).collect();
    assert!(unused.is_empty(), "listed, but not there: {unused:#?}");
}

/// Whether a line drops a result.
fn ignores(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("let _ = ") || line.starts_with("_ = ") || line == ".ok();"
}

/// The ignored results in a file that have no comment within four lines before them.
fn unexplained(path: &str, lines: &[String]) -> Vec<String> {
    let is_comment = |line: &String| line.contains("// ");
    let ignored = lines.iter().enumerate().filter(|(_, line)| ignores(line));
    ignored
        .filter(|(at, _)| !lines[at.saturating_sub(4)..=*at].iter().any(is_comment))
        .map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim()))
        .collect()
}

#[test]
fn no_result_is_ignored_without_its_reason() {
    let files = program();
    let ignored: usize = files
        .iter()
        .map(|(_, lines)| lines.iter().filter(|line| ignores(line)).count())
        .sum();
    assert!(
        ignored > 3,
        "only {ignored} results are ignored: the search is wrong"
    );
    let missing: Vec<String> = files
        .iter()
        .flat_map(|(path, lines)| unexplained(path, lines))
        .collect();
    assert!(
        missing.is_empty(),
        "results that are ignored without a comment:\n{}",
        missing.join("\n")
    );
}

#[test]
fn what_hides_a_loss_is_found() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let code =
        lines("fn a() {\n    info!(\n        \"{x}: lost\",\n    );\n    // info!(\"no\")\n}");
    assert_eq!(messages(&code), ["{x}: lost"]);
    let bare =
        lines("fn a() {\n    b();\n    c();\n    d();\n    let _ = e();\n    f\n        .ok();\n}");
    assert_eq!(
        unexplained("x", &bare),
        ["x:5: let _ = e();", "x:7: .ok();"]
    );
    let explained = lines("    // It never fails.\n    let _ = e();");
    assert!(unexplained("x", &explained).is_empty());
}
