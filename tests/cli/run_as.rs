//! `--run-as`: root starts a run that is another user's before the guest runs. Root and that user
//! are its clients, and the user has no right of root's.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::geteuid;
use vmm_sys_util::tempdir::TempDir;

use crate::common::asm::Asm;
use crate::process::{PROGRAM, Running, as_nobody, check_refusal, command, kernel};
use crate::{kvm, skipped};

const NOBODY: u32 = 65534;

/// A device that no machine has.
const ABSENT: &str = "0000:7f:1f.6";

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skipped("only root can become another user");
    }
    is_root
}

/// A guest that says at each boot that it boots.
fn boot(g: &mut Asm) {
    g.print("boot\n").hang();
}

/// A folder that every user may enter, with a kernel that every user may read.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new_with_prefix(Path::new("/tmp/mini-vmm-run-as-")).unwrap();
        fs::set_permissions(dir.as_path(), Permissions::from_mode(0o755)).unwrap();
        let folder = Self(dir);
        fs::write(folder.at("kernel"), fs::read(kernel(boot).path()).unwrap()).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.as_path().join(name)
    }

    fn owner(&self, name: &str) -> u32 {
        fs::metadata(self.at(name)).unwrap().uid()
    }

    /// A run of nobody's, which is not started.
    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--kernel").arg(self.at("kernel"));
        command.args(["--memory", "64M", "--run-as", "nobody"]);
        command.args(flags).stdin(Stdio::null());
        command
    }

    /// A run of nobody's with a socket in a new folder, whose guest has booted.
    fn start(&self, mode: &str) -> (Running, PathBuf) {
        let folder = format!("api-{mode}");
        fs::create_dir(self.at(&folder)).unwrap();
        let (socket, stats) = (
            self.at(&folder).join("socket"),
            self.at(&format!("{mode}.json")),
        );
        let mut command = self.command(&["--ports", "1", "--sandbox", mode]);
        command.arg("--api-socket").arg(&socket);
        command.arg(format!("--stats={}", stats.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let run = Running::spawn(command, kernel(boot));
        run.stdout.wait_for("boot\n");
        (run, socket)
    }
}

/// Fields of `/proc/PID/status` and the like, each with one space between two words
/// (proc_pid_status(5)).
fn fields(status: &Path, names: &[&str]) -> Vec<String> {
    let status = fs::read_to_string(status).unwrap();
    let field = |name: &&str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_else(|| panic!("no {name} in {status}"));
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    names.iter().map(field).collect()
}

/// Each thread is the user's, and no program that it executes gets anything back. The filters are
/// the sandbox's.
fn is_nobodys(run: u32, mode: &str) {
    let names = [
        "Uid:",
        "Gid:",
        "Groups:",
        "CapInh:",
        "CapPrm:",
        "CapEff:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
    ];
    let (all, none) = (
        [NOBODY; 4].map(|id| id.to_string()).join(" "),
        "0".repeat(16),
    );
    let filter = if mode == "off" { "0" } else { "2" };
    let wanted = [&all, &all, "", &none, &none, &none, &none, "1", filter];
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{run}/task")).unwrap() {
        let found = fields(&task.unwrap().path().join("status"), &names);
        assert_eq!(found, wanted, "{mode}");
        threads += 1;
    }
    assert!(threads >= 5, "{threads}");
}

/// The processes that open and bind devices stay root's.
fn helpers_are_roots(run: u32) {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let status = entry.unwrap().path().join("status");
        // A process may have ended.
        let text = fs::read_to_string(&status).unwrap_or_default();
        if text.contains(&format!("\nPPid:\t{run}\n")) {
            let [name, uid] = &fields(&status, &["Name:", "Uid:"])[..] else {
                panic!("{text}");
            };
            assert_eq!(uid, "0 0 0 0", "{name}");
            found.push(name.clone());
        }
    }
    found.sort();
    assert_eq!(found, ["vmm-binder", "vmm-guardian"]);
}

#[test]
fn a_run_of_another_user() {
    if !kvm() || !is_root() {
        return;
    }
    let folder = Folder::new();
    for mode in ["on", "log", "off"] {
        let (mut run, socket) = folder.start(mode);
        is_nobodys(run.pid(), mode);
        helpers_are_roots(run.pid());
        let stats = format!("{mode}.json");
        assert_eq!(folder.owner(&format!("api-{mode}")), NOBODY);
        assert_eq!(folder.owner(&stats), NOBODY);
        assert_eq!(fs::metadata(&socket).unwrap().uid(), NOBODY);
        // Root is a client.
        let mut ctl = Command::new(PROGRAM);
        let answer = ctl.arg("ctl").arg(&socket).arg("reboot").status().unwrap();
        assert!(answer.success());
        run.stdout.wait_for("boot\nboot\n");
        is_nobodys(run.pid(), mode);
        run.signal(libc::SIGTERM);
        assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
        assert!(
            !run.stderr.text().contains("sandbox: "),
            "{}",
            run.stderr.text()
        );
        assert!(!socket.exists());
        let report = fs::read_to_string(folder.at(&stats)).unwrap();
        assert!(report.contains("\"exits\""), "{report}");
    }
}

/// What a client is told that asks for a device: the process that opens devices has refused it to
/// the user's clients.
#[test]
fn clients_of_the_user_have_no_right_of_roots() {
    if !kvm() || !is_root() {
        return;
    }
    let folder = Folder::new();
    for mode in ["on", "off"] {
        let (mut run, socket) = folder.start(mode);
        let add = |body: String| {
            let mut curl = Command::new("curl");
            curl.arg("-sS").arg("--unix-socket").arg(&socket);
            curl.args(["-X", "PUT", "-w", "\n%{http_code}", "-d", &body]);
            curl.arg("http://localhost/api/v1/vm.add-device");
            curl
        };
        for managed in [false, true] {
            let body = || format!(r#"{{"path": "{ABSENT}", "managed": {managed}}}"#);
            let Some(output) = as_nobody(&mut add(body())) else {
                return;
            };
            let said = text(&output);
            for part in [
                "A client of nobody adds only devices of which nobody may open the node",
                "hint: as root: mini-vmm host bind ADDR --user nobody",
                "\n403",
            ] {
                assert!(said.contains(part), "{said}");
            }
            // Root has the right, and the machine has no such device.
            let said = text(&add(body()).output().unwrap());
            assert!(
                said.contains(ABSENT) && !said.contains("A client"),
                "{said}"
            );
            assert!(!said.contains("\n403"), "{said}");
        }
        // Neither is such a request the end of the run, nor of the connection's other requests.
        let mut info = Command::new("curl");
        info.arg("-sS").arg("--unix-socket").arg(&socket);
        info.arg("http://localhost/api/v1/vm.info");
        let said = text(&as_nobody(&mut info).unwrap());
        assert!(said.contains("Running"), "{said}");
        run.signal(libc::SIGTERM);
        assert_eq!(run.status(), Some(0), "{}", run.stderr.text());
    }
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(all).unwrap()
}

#[test]
fn users_that_a_run_cannot_have() {
    let guest = kernel(boot);
    for (user, says) in [
        ("no-such-user", "no-such-user"),
        ("root", "--run-as root: this user is root"),
        ("4000000001", "so no group"),
    ] {
        let output = command(&guest, &["--run-as", user]).output().unwrap();
        check_refusal(&output, says, "");
    }
    if let Some(output) = as_nobody(&mut command(&guest, &["--run-as", "daemon"])) {
        let says = "--run-as daemon: only root can start a run that is another user's";
        check_refusal(&output, says, "start mini-vmm as root");
    }
}

/// What USER may not read is among the problems, and what USER may read is not.
#[test]
fn files_that_the_user_may_not_read_are_explained() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let guest = kernel(boot);
    let secret = folder.at("secret");
    fs::copy(guest.path(), &secret).unwrap();
    let explain = |user: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["explain", "--memory", "64M", "--run-as", user, "--kernel"]);
        let output = command.arg(&secret).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let problem = format!("the run's user nobody may not read {}", secret.display());
    for (mode, told) in [(0o600, true), (0o644, false)] {
        fs::set_permissions(&secret, Permissions::from_mode(mode)).unwrap();
        let text = explain("nobody");
        assert_eq!(text.contains(&problem), told, "{mode:o}: {text}");
    }
    let output = Command::new(PROGRAM)
        .args(["explain", "--run-as", "no-such-user"])
        .output()
        .unwrap();
    check_refusal(&output, "no-such-user", "");
}

/// Each mistake is told before the device is looked at, which no machine has.
#[test]
fn nothing_of_others_is_given_away() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let device = format!("{ABSENT},managed=on");
    fs::create_dir(folder.at("used")).unwrap();
    fs::write(folder.at("used/file"), "root's").unwrap();
    fs::create_dir(folder.at("empty")).unwrap();
    symlink(folder.at("empty"), folder.at("link")).unwrap();
    symlink(folder.at("used/file"), folder.at("report")).unwrap();
    let refused = |flag: &str, path: &Path, says: &str, hint: &str| {
        let mut command = folder.command(&["--vfio", &device]);
        match flag {
            "--stats" => command.arg(format!("--stats={}", path.display())),
            _ => command.arg(flag).arg(path),
        };
        check_refusal(&command.output().unwrap(), says, hint);
    };
    let tmp = Path::new("/tmp/mini-vmm-run-as.sock");
    refused(
        "--api-socket",
        tmp,
        "/tmp is not nobody's",
        "mkdir /tmp/nobody",
    );
    let used = folder.at("used/socket");
    refused(
        "--api-socket",
        &used,
        "is not an empty folder of root's",
        "mkdir",
    );
    let link = folder.at("link/socket");
    refused("--api-socket", &link, "is a symbolic link", "realpath");
    refused(
        "--stats",
        &folder.at("used/file"),
        "exists, and nobody may not",
        "rm ",
    );
    refused(
        "--stats",
        &folder.at("report"),
        "is a symbolic link",
        "realpath",
    );
    refused(
        "--stats",
        &folder.at("none/x"),
        "cannot be opened for nobody",
        "ls -ld",
    );
    // A kernel that the user may not read.
    let mode = |mode| {
        fs::set_permissions(folder.at("kernel"), Permissions::from_mode(mode)).unwrap();
    };
    mode(0o600);
    let never = folder.at("never.json");
    refused("--stats", &never, "/kernel", "");
    refused("--stats", &never, "Permission denied", "");
    assert!(!never.exists());
    mode(0o644);
    // The first mistake of a run that has no other is the device.
    let good = folder.at("new.json");
    refused("--stats", &good, ABSENT, "");
    for name in ["used", "used/file", "empty", "link"] {
        assert_eq!(folder.owner(name), 0, "{name}");
    }
    assert_eq!(fs::metadata("/tmp").unwrap().uid(), 0);
    assert_eq!(fs::read(folder.at("used/file")).unwrap(), b"root's");
}
