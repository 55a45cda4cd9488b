//! `--api-socket` and `mini-vmm ctl`: the socket's file, and a running guest that is asked and
//! changed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::common::asm::Asm;
use crate::kvm;
use crate::process::{
    PROGRAM, Running, as_nobody, check_refusal, command, eventually, kernel, refused,
};

/// A path of a socket that nobody else uses; the file is removed at the end.
pub struct SocketPath(PathBuf);

impl SocketPath {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mini-vmm-api-{}-{number}.sock", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn is_socket(&self) -> bool {
        fs::symlink_metadata(&self.0).is_ok_and(|m| m.file_type().is_socket())
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A running guest with a socket.
pub struct Guest {
    pub run: Running,
    pub socket: SocketPath,
}

impl Guest {
    /// Starts a guest, and waits until its socket is there.
    pub fn start(build: impl FnOnce(&mut Asm), arguments: &[&str]) -> Self {
        let socket = SocketPath::new();
        Self::start_at(socket, build, arguments)
    }

    fn start_at(socket: SocketPath, build: impl FnOnce(&mut Asm), arguments: &[&str]) -> Self {
        let arguments = [&["--api-socket", socket.text()], arguments].concat();
        let run = Running::start(kernel(build), &arguments);
        let guest = Self { run, socket };
        guest.wait_for_socket();
        guest
    }

    fn wait_for_socket(&self) {
        eventually("the socket", || {
            assert_eq!(self.run.stderr.text(), "");
            UnixStream::connect(self.socket.path()).is_ok()
        });
    }

    pub fn try_ctl(&self, verb: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("ctl").arg(self.socket.path()).args(verb);
        command.output().unwrap()
    }

    /// Runs `ctl`, which must succeed; returns what it printed.
    #[track_caller]
    pub fn ctl(&self, verb: &[&str]) -> String {
        let output = self.try_ctl(verb);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{verb:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn info(&self) -> Value {
        serde_json::from_str(&self.ctl(&["info", "--json"])).unwrap()
    }

    #[track_caller]
    fn refuses(&self, verb: &[&str], message: &str, hint: &str) {
        check_refusal(&self.try_ctl(verb), message, hint);
    }

    /// Sends bytes, and returns all that is answered until the server closes the connection.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket.path()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// A guest that says that it runs, and does nothing after that.
fn hang(g: &mut Asm) {
    g.print("ready").hang();
}

/// A guest that says at each boot that it boots.
fn boot(g: &mut Asm) {
    g.print("boot\n").hang();
}

/// A guest that prints dots without an end.
fn dots(g: &mut Asm) {
    let again = g.here();
    g.print(".").jmp(again);
}

/// Whether the guest prints in a fifth of a second.
fn prints(run: &Running) -> bool {
    let before = run.stdout.text().len();
    thread::sleep(Duration::from_millis(200));
    run.stdout.text().len() > before
}

#[test]
fn ping_and_info() {
    if !kvm() {
        return;
    }
    let guest = Guest::start(hang, &["--cpus", "2", "--cmdline", "quiet"]);
    guest.run.stdout.wait_for("ready");
    let pong = guest.raw("GET /api/v1/vmm.ping HTTP/1.1\r\nConnection: close\r\n\r\n");
    let (head, body) = pong.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["pid"], guest.run.pid());
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    let info = guest.info();
    assert_eq!(info["state"], "Running");
    assert_eq!(info["config"]["cpus"]["boot_vcpus"], 2);
    assert_eq!(info["config"]["payload"]["cmdline"], "console=ttyS0 quiet");
    assert_eq!(info["memory_actual_size"], 64 << 20);
    assert_eq!(
        (&info["boots"], &info["pid"]),
        (&1.into(), &guest.run.pid().into())
    );
    let text = guest.ctl(&["info"]);
    assert!(text.starts_with("state    running, boot 1, "), "{text}");
    assert!(text.contains("\nguest    2 vCPUs, 64 MiB\n"), "{text}");
}

/// Its owner alone may use it, whatever the umask; it is gone after each orderly end.
#[test]
fn the_socket_is_private_and_goes() {
    if !kvm() {
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let socket = SocketPath::new();
        let file = kernel(hang);
        let run = command(&file, &["--api-socket", socket.text()]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 0; exec \"$@\"", "sh"]);
        shell.arg(run.get_program()).args(run.get_args());
        shell.stdin(std::process::Stdio::piped());
        shell.stdout(std::process::Stdio::piped());
        let mut run = Running::spawn(shell, file);
        run.stdout.wait_for("ready");
        assert!(socket.is_socket());
        let mode = fs::metadata(socket.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        run.signal(signal);
        run.ends_well();
        assert!(!socket.path().exists());
    }
    let mut guest = Guest::start(
        |g| {
            g.wait_key().power_off();
        },
        &[],
    );
    guest.run.stdin.as_mut().unwrap().write_all(b"k").unwrap();
    guest.run.ends_well();
    assert!(!guest.socket.path().exists());
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    if !kvm() {
        return;
    }
    let mut first = Guest::start(hang, &[]);
    first.run.stdout.wait_for("ready");
    let kernel_file = kernel(hang);
    let second = command(&kernel_file, &["--api-socket", first.socket.text()]).output();
    let by = format!("is in use by process {}", first.run.pid());
    let kill = format!("kill {}", first.run.pid());
    check_refusal(&second.unwrap(), &by, &kill);
    assert_eq!(first.info()["pid"], first.run.pid());
    first.run.signal(libc::SIGKILL);
    assert_eq!(first.run.status(), None);
    assert!(first.socket.is_socket(), "nobody has removed it");
    let mut again = Guest::start_at(first.socket, hang, &[]);
    assert_eq!(again.info()["pid"], again.run.pid());
    again.ctl(&["shutdown"]);
    again.run.ends_well();
    assert!(!again.socket.path().exists());
}

#[test]
fn what_is_no_socket_stays() {
    let file = crate::common::elf::TempFile::new(b"important");
    let path = file.path().to_str().unwrap();
    let run = |path: &str, message: &str, hint: &str| {
        refused(&["--kernel", "/none", "--api-socket", path], message, hint);
    };
    run(path, "exists and is no socket", "choose a path");
    assert_eq!(fs::read(path).unwrap(), b"important");
    run("/", "exists and is a folder", "choose a path");
    run(
        "/no/such/folder/s",
        "cannot make the socket /no/such/folder/s",
        "mkdir -p /no/such/folder",
    );
    run(
        &format!("/{}", "x".repeat(120)),
        "cannot make the socket",
        "107 bytes",
    );
    // A socket for datagrams is another program's.
    let socket = SocketPath::new();
    let _other = std::os::unix::net::UnixDatagram::bind(socket.path()).unwrap();
    run(
        socket.text(),
        "is a socket of another type",
        "choose a path",
    );
    assert!(socket.is_socket());
}

/// A socket that was replaced by another program is not removed.
#[test]
fn anothers_socket_stays() {
    if !kvm() {
        return;
    }
    let mut guest = Guest::start(hang, &[]);
    fs::remove_file(guest.socket.path()).unwrap();
    let _other = UnixListener::bind(guest.socket.path()).unwrap();
    guest.run.signal(libc::SIGTERM);
    guest.run.ends_well();
    assert!(guest.socket.is_socket());
}

#[test]
fn another_user_is_refused() {
    if !kvm() {
        return;
    }
    let guest = Guest::start(hang, &[]);
    let as_user = |verb: &str| {
        let mut command = Command::new("curl");
        let url = format!("http://localhost/api/v1/{verb}");
        command.args(["-s", "--unix-socket", guest.socket.text(), &url]);
        as_nobody(&mut command)
    };
    let Some(output) = as_user("vm.info") else {
        return;
    };
    // The file's mode: curl cannot connect.
    assert_eq!(output.status.code(), Some(7));
    // Somebody has opened the file to all: the peer's user counts.
    let open = fs::Permissions::from_mode(0o666);
    fs::set_permissions(guest.socket.path(), open).unwrap();
    let output = as_user("vm.info").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("Only root and the user of this process"),
        "{said}"
    );
    let own = guest.ctl(&["info"]);
    assert!(own.starts_with("state    running"), "{own}");
}

#[test]
fn a_paused_guest_prints_nothing() {
    if !kvm() {
        return;
    }
    for cpus in ["1", "3"] {
        let mut guest = Guest::start(dots, &["--cpus", cpus]);
        eventually("dots", || prints(&guest.run));
        guest.ctl(&["pause"]);
        // What the guest printed before is still on its way for a moment.
        thread::sleep(Duration::from_millis(100));
        assert!(!prints(&guest.run));
        let info = guest.info();
        assert_eq!(info["state"], "Paused");
        assert!(info["note"].as_str().unwrap().contains("DMA goes on"));
        assert!(guest.ctl(&["info"]).starts_with("state    paused, boot 1"));
        guest.refuses(&["pause"], "the guest is paused already", "resume");
        guest.run.signal(libc::SIGUSR1);
        guest.run.stderr.wait_for("total=");
        guest.ctl(&["resume"]);
        eventually("dots", || prints(&guest.run));
        assert_eq!(guest.info()["state"], "Running");
        guest.refuses(&["resume"], "the guest is not paused", "pause");
        guest.run.signal(libc::SIGTERM);
        assert_eq!(guest.run.status(), Some(0));
    }
}

#[test]
fn a_paused_guest_can_end() {
    if !kvm() {
        return;
    }
    let mut guest = Guest::start(dots, &["--cpus", "2"]);
    guest.ctl(&["pause"]);
    guest.run.signal(libc::SIGTERM);
    guest.run.ends_well();
    let mut guest = Guest::start(dots, &["--cpus", "2"]);
    guest.ctl(&["pause"]);
    guest.ctl(&["shutdown"]);
    guest.run.ends_well();
    assert!(!guest.socket.path().exists());
}

#[test]
fn a_reboot_ends_a_pause() {
    if !kvm() {
        return;
    }
    let mut guest = Guest::start(boot, &[]);
    guest.run.stdout.wait_for("boot\n");
    guest.ctl(&["reboot"]);
    guest.run.stdout.wait_for("boot\nboot\n");
    guest.ctl(&["pause"]);
    guest.ctl(&["reboot"]);
    guest.run.stdout.wait_for("boot\nboot\nboot\n");
    let info = guest.info();
    assert_eq!(
        (&info["boots"], &info["state"]),
        (&3.into(), &"Running".into())
    );
    guest.ctl(&["shutdown"]);
    guest.run.ends_well();
    let mut guest = Guest::start(boot, &["--no-reboot"]);
    guest.ctl(&["reboot"]);
    guest.run.ends_well();
}

#[test]
fn events_come_in_order() {
    if !kvm() {
        return;
    }
    let mut guest = Guest::start(boot, &[]);
    let mut follow = Command::new(PROGRAM);
    follow.arg("ctl").arg(guest.socket.path());
    follow.args(["events", "--since", "0", "--json"]);
    let follower = thread::spawn(move || follow.output().unwrap());
    guest.ctl(&["pause"]);
    let seen = guest.info()["last_event"].as_u64().unwrap();
    assert_eq!(seen, 1);
    guest.ctl(&["resume"]);
    guest.ctl(&["reboot"]);
    guest.refuses(
        &["events", "--since", "99"],
        "after the last event",
        "leave `since` out",
    );
    guest.ctl(&["shutdown"]);
    guest.run.ends_well();
    let output = follower.join().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["paused", "resumed", "guest-reset", "shutdown"]);
    let numbers: Vec<_> = events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(events[3]["reason"], "asked");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn nobody_listens() {
    let socket = SocketPath::new();
    let start = format!("--api-socket {}", socket.text());
    refused(
        &["ctl", socket.text(), "info"],
        "no mini-vmm listens at",
        &start,
    );
}

#[test]
fn counters_are_those_of_the_report() {
    if !kvm() {
        return;
    }
    let build = |g: &mut Asm| {
        g.load32(0xc000_0000).print("ready").hang();
    };
    let guest = Guest::start(build, &["--cpus", "2"]);
    guest.run.stdout.wait_for("ready");
    let counters = |guest: &Guest| -> Value {
        serde_json::from_str(&guest.ctl(&["counters", "--json"])).unwrap()
    };
    let plain = counters(&guest);
    assert_eq!(plain["exits"]["mmio_read"], 1);
    assert_eq!(plain["vcpu0"]["mmio_read"], 1);
    assert_eq!(plain["vcpu1"]["mmio_read"], 0);
    assert_eq!(plain["dma_ram"]["maps"], 0);
    let groups = plain.as_object().unwrap();
    let names: Vec<_> = groups.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["dma_bars", "dma_ram", "exits", "in_use", "vcpu0", "vcpu1"]
    );
    // RAM below the tiny guest's hole is one region.
    assert_eq!(plain["in_use"]["memory_slots"], 1);
    assert_eq!(plain["in_use"]["gsis"], 0);
    // As in Cloud Hypervisor's schema, all are groups of integers.
    let counts = groups
        .values()
        .flat_map(|g| g.as_object().unwrap().values());
    assert!(counts.into_iter().all(Value::is_u64));
    let text = guest.ctl(&["counters"]);
    assert!(
        text.contains("exits\n") && text.contains("  mmio_read\n"),
        "{text}"
    );
    assert!(!text.contains("dma_ram"), "{text}");
    let guest = Guest::start(build, &["--stats"]);
    guest.run.stdout.wait_for("ready");
    let detailed = counters(&guest);
    assert_eq!(detailed["registers"]["memory 0xc0000000 read"], 1);
    assert!(detailed["phases_us"]["create_vm"].is_u64());
    assert!(detailed["memory"]["private_bytes"].as_u64() > Some(0));
}
