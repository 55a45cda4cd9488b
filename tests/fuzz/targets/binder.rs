//! The socket of the process that binds devices for a run: any packets from the run, and a kernel
//! that refuses a change. Each packet has one answer; a refused bind has changed nothing, no device
//! changes that was not named, none is bound that is not the run's, and the end of the run gives
//! all devices back.

#![no_main]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::bind::{Call, CallEnd, Host, Kernel, Records};
use host::binder::serve;
use host::paths::{Addresses, HostPaths};
use libfuzzer_sys::fuzz_target;
use rustix::net::{Shutdown, shutdown};
use vmm::broker::{Device, Named, Right};
use vmm::hostinfo::sysfs::Sysfs;
use vmm::sys::packets::Packets;
use vmm::sys::process::Process;
use vmm_sys_util::tempdir::TempDir;

/// A step is two bytes: what is done, and about which devices.
enum Step<'a> {
    /// A request about these devices.
    Ask(Kind, u8),
    /// A note about a call of a process that does not exist.
    Note(u8),
    /// The bytes that follow.
    Bytes(&'a [u8]),
    /// The change with this number from now on is refused.
    Refuse(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bind,
    GiveBack,
    Release,
    /// Whether no call goes on for the devices. Nothing changes.
    Check,
}

/// The step that begins here.
fn step(bytes: &[u8]) -> Option<Step<'_>> {
    let ([kind, value], rest) = bytes.split_first_chunk()?;
    Some(match kind {
        b'b' => Step::Ask(Kind::Bind, *value),
        b'g' => Step::Ask(Kind::GiveBack, *value),
        b'r' => Step::Ask(Kind::Release, *value),
        b'c' => Step::Ask(Kind::Check, *value),
        b'n' => Step::Note(*value),
        b'x' => Step::Refuse(value % 16),
        _ => Step::Bytes(rest.get(..usize::from(*value)).unwrap_or(rest)),
    })
}

/// The names that a step's second byte has, a bit for each.
fn names(bits: u8) -> Vec<&'static str> {
    let others = ["0000:09:00.0", "", "01:00.0 ", "../../etc", "\u{e9}"];
    let all = DEVICES.iter().map(|(device, _)| *device).chain(others);
    let named = all.enumerate().filter(|(bit, _)| bits >> bit & 1 != 0);
    named.map(|(_, name)| name).collect()
}

/// Of these, the run may have the first two bound. A run that is not confined may have all.
const DEVICES: [(&str, &str); 3] = [
    ("0000:01:00.0", "nvme"),
    ("0000:02:00.0", "e1000e"),
    ("0000:03:00.0", "xhci_hcd"),
];

/// The kernel: drivers come and go as files of sysfs say.
#[derive(Clone)]
struct Made {
    root: PathBuf,
    /// The changes that are left before one is refused.
    refused: Arc<Mutex<Option<u8>>>,
}

impl Made {
    fn device(&self, name: &str) -> PathBuf {
        self.root.join("sys/bus/pci/devices").join(name)
    }

    fn driver(&self, name: &str) -> Option<String> {
        let link = fs::read_link(self.device(name).join("driver")).ok()?;
        Some(link.file_name()?.to_str()?.into())
    }

    fn attach(&self, name: &str, driver: &str) -> io::Result<()> {
        let device = self.device(name);
        symlink(
            self.root.join("sys/bus/pci/drivers").join(driver),
            device.join("driver"),
        )?;
        if driver == "vfio-pci" {
            fs::create_dir_all(device.join("vfio-dev").join(format!("vfio{}", &name[5..7])))?;
            fs::write(self.root.join("dev/vfio").join(&name[6..7]), "")?;
        }
        Ok(())
    }

    fn detach(&self, name: &str) -> io::Result<()> {
        let device = self.device(name);
        if self.driver(name).as_deref() == Some("vfio-pci") {
            fs::remove_dir_all(device.join("vfio-dev"))?;
            fs::remove_file(self.root.join("dev/vfio").join(&name[6..7]))?;
        }
        fs::remove_file(device.join("driver"))
    }

    fn probe(&self, name: &str) -> io::Result<()> {
        let natural = DEVICES.iter().find(|(device, _)| *device == name);
        let wanted = fs::read_to_string(self.device(name).join("driver_override"))?;
        let driver = match wanted.trim() {
            "(null)" => natural.expect("a device").1.to_owned(),
            wanted => wanted.to_owned(),
        };
        match self.driver(name) {
            None => self.attach(name, &driver),
            Some(_) => Ok(()),
        }
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut refused = self.refused.lock().unwrap();
        *refused = match *refused {
            Some(0) => {
                *refused = None;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            left => left.map(|left| left - 1),
        };
        drop(refused);
        let part = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let (name, above) = (part(path), part(path.parent().unwrap()));
        let device = text.trim();
        match name.as_str() {
            "driver_override" => {
                let text = if device.is_empty() { "(null)" } else { device };
                fs::write(path, format!("{text}\n"))
            }
            "unbind" if self.driver(device).as_deref() == Some(&*above) => self.detach(device),
            "bind" if self.driver(device).is_none() => self.attach(device, &above),
            "bind" | "unbind" => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            "drivers_probe" => self.probe(device),
            other => panic!("nothing is written to {other}"),
        }
    }
}

/// A write that is made in this process.
struct Write(Made, PathBuf, String);

impl Call for Write {
    fn process(&self) -> Process {
        Process { pid: 0, started: 0 }
    }

    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> CallEnd {
        CallEnd::Returned(self.0.write(&self.1, &self.2))
    }
}

impl Kernel for Made {
    fn prepare(&self, path: &Path, text: &str) -> io::Result<Box<dyn Call>> {
        Ok(Box::new(Write(self.clone(), path.into(), text.into())))
    }

    fn chown(&self, _: &Path, _: u32, _: Option<u32>) -> io::Result<()> {
        panic!("a run gives no node away");
    }

    fn owner(&self, _: &Path) -> io::Result<(u32, u32)> {
        Ok((0, 0))
    }

    fn load(&self, _: &str, _: Duration) -> io::Result<()> {
        Err(io::Error::other("no such module"))
    }

    fn run(&self, _: &[&str], _: Duration) -> io::Result<()> {
        panic!("a run starts no program");
    }
}

/// A host of three devices, each with its own group.
fn made(root: &Path) -> Made {
    for below in [
        "sys/class/vfio-dev",
        "dev/vfio",
        "proc/sys/kernel",
        "modules/6.1.0",
    ] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    fs::write(root.join("proc/sys/kernel/osrelease"), "6.1.0\n").unwrap();
    let kernel = Made {
        root: root.into(),
        refused: Arc::default(),
    };
    for driver in ["vfio-pci", "nvme", "e1000e", "xhci_hcd"] {
        fs::create_dir_all(root.join("sys/bus/pci/drivers").join(driver)).unwrap();
    }
    for (number, (name, driver)) in (1..).zip(DEVICES) {
        let device = kernel.device(name);
        fs::create_dir_all(&device).unwrap();
        let modalias = format!("pci:v00001B36d0000000{number}sv0sd0bc0Csc03i30\n");
        for (file, text) in [("class", "0x0c0330\n"), ("driver_override", "(null)\n")] {
            fs::write(device.join(file), text).unwrap();
        }
        fs::write(device.join("modalias"), modalias).unwrap();
        fs::write(device.join("config"), [0; 64]).unwrap();
        let group = root.join(format!("sys/kernel/iommu_groups/{number}"));
        fs::create_dir_all(group.join("devices")).unwrap();
        symlink(&group, device.join("iommu_group")).unwrap();
        symlink(&device, group.join("devices").join(name)).unwrap();
        kernel.attach(name, driver).unwrap();
    }
    kernel
}

fn host(kernel: &Made) -> Host {
    let root = &kernel.root;
    Host {
        sysfs: Sysfs::at(root.join("sys")),
        paths: HostPaths {
            dev: root.join("dev"),
            proc: root.join("proc"),
            modules: root.join("modules"),
            etc: root.join("etc"),
            addresses: Addresses::These(Vec::new()),
        },
        records: Records::at(root.join("run")),
        kernel: Box::new(kernel.clone()),
        limit: Duration::ZERO,
    }
}

struct Test {
    kernel: Made,
    host: Host,
    run: Process,
    named: Named,
    /// The devices that the run has; `None` after a change was refused while devices were given
    /// back.
    bound: Option<BTreeSet<&'static str>>,
}

impl Test {
    /// Sends a packet, and returns the kind of its answer.
    fn ask(&self, bytes: &[u8]) -> Option<u8> {
        let (ours, theirs) = Packets::pair().expect("a pair of sockets");
        // An empty packet, or one that is too long, is not sent.
        let sent = !bytes.is_empty() && ours.send(bytes, &[]).is_ok();
        shutdown(&ours, Shutdown::Write).expect("the end of the packets");
        serve(&theirs, &self.host, self.run, &self.named);
        drop(theirs);
        let answer = ours.receive().expect("an answer");
        assert_eq!(answer.is_some(), sent, "each packet has one answer");
        let kind = *answer?.bytes.first()?;
        assert!(matches!(kind, b'd' | b'f'), "{kind}");
        assert!(
            ours.receive().expect("the end").is_none(),
            "a second answer"
        );
        Some(kind)
    }

    fn has(&self, device: &str) -> bool {
        self.kernel.driver(device).as_deref() == Some("vfio-pci")
    }

    fn check(&self) {
        let Some(bound) = &self.bound else { return };
        let records = self.host.records.all().expect("records");
        for (device, driver) in DEVICES {
            let expected = if bound.contains(device) {
                "vfio-pci"
            } else {
                driver
            };
            let found = self.kernel.driver(device);
            assert_eq!(found.as_deref(), Some(expected), "the driver of {device}");
            let record = records
                .iter()
                .find(|record| record.bdf.to_string() == device);
            let owner = record.map(|record| record.owner);
            let wanted = bound.contains(device).then_some(Some(self.run));
            assert_eq!(owner, wanted, "the record of {device}");
        }
    }

    fn step(&mut self, kind: Kind, bits: u8) {
        let letter = match kind {
            Kind::Bind => b'b',
            Kind::GiveBack => b'g',
            Kind::Release => b'r',
            Kind::Check => b'c',
        };
        let text = names(bits).join("\n");
        let answer = self.ask(&[&[letter], text.as_bytes()].concat());
        let reached = self.kernel.refused.lock().unwrap().is_none();
        let named = |device: &&str| text.lines().any(|name| name == *device);
        let devices = DEVICES.iter().map(|(device, _)| *device);
        let named: BTreeSet<_> = devices.filter(named).collect();
        let Some(bound) = &mut self.bound else { return };
        match (kind, answer) {
            // All of them or none.
            (Kind::Bind, Some(b'd')) => {
                let foreign = DEVICES[2].0;
                let confined = !self.named.is_any();
                assert!(!confined || !named.contains(foreign), "{foreign} is bound");
                bound.extend(named);
            }
            (Kind::Bind | Kind::Check, _) => {}
            // What was refused may be half done until the next time.
            (_, Some(b'f')) if reached => self.bound = None,
            (Kind::GiveBack, _) => bound.retain(|device| !named.contains(device)),
            (Kind::Release, _) => bound.clear(),
        }
    }

    fn note(&self, bits: u8) {
        let names = names(bits);
        let pid = u32::MAX;
        let text = format!("n{}\nopen\n{pid}\n1", names.first().unwrap_or(&""));
        self.ask(text.as_bytes());
    }

    /// The end of the run: all devices are as they were, and no record is left.
    fn end(mut self) {
        *self.kernel.refused.lock().unwrap() = None;
        self.ask(b"r");
        self.ask(b"r");
        self.bound = Some(BTreeSet::new());
        self.check();
        for (device, _) in DEVICES {
            assert!(!self.has(device));
            let text = fs::read_to_string(self.kernel.device(device).join("driver_override"));
            assert_eq!(text.unwrap(), "(null)\n", "the override of {device}");
        }
        assert_eq!(
            self.host.records.begun().expect("a journal"),
            [],
            "the journal is empty"
        );
    }
}

fuzz_target!(|bytes: &[u8]| {
    let shm = Path::new("/dev/shm/mini-vmm-fuzz-");
    let dir = TempDir::new_with_prefix(shm).or_else(|_| TempDir::new());
    let dir = dir.expect("a directory");
    let kernel = made(dir.as_path());
    // A client of the run's user has named the third.
    let rights = [Right::Bind, Right::Bind, Right::AsUser];
    let own = DEVICES.iter().zip(rights).map(|((name, _), right)| Device {
        name: name.parse().expect("an address"),
        right,
    });
    let named = match bytes.first() {
        Some(b'g' | b'n') | None => Named::any(),
        _ => Named::only(own),
    };
    let mut test = Test {
        host: host(&kernel),
        named,
        kernel,
        run: Process::this().expect("/proc"),
        bound: Some(BTreeSet::new()),
    };
    for at in (0..bytes.len().min(40)).step_by(2) {
        match bytes.get(at..).and_then(step) {
            Some(Step::Ask(kind, bits)) => test.step(kind, bits),
            Some(Step::Note(bits)) => test.note(bits),
            // The requests themselves are the other steps.
            Some(Step::Bytes([b'b' | b'g' | b'r' | b'n' | b'c', ..])) => {}
            Some(Step::Bytes(bytes)) => assert_ne!(test.ask(bytes), Some(b'd'), "{bytes:?}"),
            Some(Step::Refuse(number)) => {
                *test.kernel.refused.lock().unwrap() = Some(number);
            }
            None => {}
        }
        test.check();
    }
    test.end();
});
