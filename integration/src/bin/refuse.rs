//! Runs mini-vmm in L1 once for each row of docs/errnos.md, with a seccomp filter that answers the
//! row's call with the row's errno.
//!
//! `refuse INTERFACE BDF KERNEL INITRD [OTHER]` runs the rows of `container` or `iommufd`, those of
//! both, and KVM's rows that need a device. For each row the program prints "LAB: refusal CALL
//! ERRNO ok", or what was wrong instead. The kernel and the initramfs are for the rows in which a
//! guest must set up interrupts, and OTHER is a device for the reset of a bus. The other guests are
//! a few instructions long. Without arguments the program only writes these guests to /run:
//! off.elf, reset.elf and halt.elf.

#[path = "../../../tests/common/answer_ioctl.rs"]
mod answer_ioctl;

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use answer_ioctl::answer_ioctl;

const TABLE: &str = include_str!("../../../docs/errnos.md");
const LIMIT: Duration = Duration::from_secs(40);

/// Guests: write to the port of power-off or of reset, and halt without interrupts.
const POWER_OFF: &[u8] = &[0xba, 0, 6, 0, 0, 0xb0, 0x34, 0xee, 0xeb, 0xfe];
const RESET: &[u8] = &[0xba, 2, 6, 0, 0, 0xb0, 0x01, 0xee, 0xeb, 0xfe];
const HALT: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];
const OFF_FILE: &str = "/run/off.elf";
const RESET_FILE: &str = "/run/reset.elf";
const HALT_FILE: &str = "/run/halt.elf";

struct Row {
    call: &'static str,
    errno: &'static str,
    interface: &'static str,
    when: &'static str,
    meaning: &'static str,
    hint: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    let lines = TABLE.lines().skip_while(|line| !line.starts_with("| -"));
    lines.skip(1).filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        Some(Row {
            call: cells.next()?,
            errno: cells.next()?,
            interface: cells.next()?,
            when: cells.next()?,
            meaning: cells.next()?,
            hint: cells.next()?,
        })
    })
}

/// The ioctl's type and number, for the calls that need a device: KVMIO is 0xae, VFIO and iommufd
/// have `;` (include/uapi/linux/kvm.h, vfio.h, iommufd.h).
fn request(call: &str) -> Option<u16> {
    Some(match call {
        "KVM_ENABLE_CAP" => 0xaea3,
        "KVM_CREATE_DEVICE" => 0xaee0,
        "KVM_DEV_VFIO_FILE_ADD" => 0xaee1,
        "KVM_SET_GSI_ROUTING" => 0xae6a,
        "VFIO_GET_API_VERSION" => 0x3b64,
        "VFIO_CHECK_EXTENSION" => 0x3b65,
        "VFIO_SET_IOMMU" => 0x3b66,
        "VFIO_GROUP_GET_STATUS" => 0x3b67,
        "VFIO_GROUP_SET_CONTAINER" => 0x3b68,
        "VFIO_GROUP_GET_DEVICE_FD" => 0x3b6a,
        "VFIO_DEVICE_GET_INFO" => 0x3b6b,
        "VFIO_DEVICE_GET_REGION_INFO" => 0x3b6c,
        "VFIO_DEVICE_GET_IRQ_INFO" => 0x3b6d,
        "VFIO_DEVICE_SET_IRQS" => 0x3b6e,
        "VFIO_DEVICE_RESET" => 0x3b6f,
        "VFIO_IOMMU_GET_INFO" => 0x3b70,
        "VFIO_IOMMU_MAP_DMA" => 0x3b71,
        "VFIO_IOMMU_UNMAP_DMA" => 0x3b72,
        // By a container this number is VFIO_IOMMU_MAP_DMA.
        "VFIO_DEVICE_PCI_HOT_RESET" => 0x3b71,
        "VFIO_DEVICE_BIND_IOMMUFD" => 0x3b76,
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT" => 0x3b77,
        "IOMMU_IOAS_ALLOC" => 0x3b81,
        "IOMMU_IOAS_IOVA_RANGES" => 0x3b84,
        "IOMMU_IOAS_MAP" => 0x3b85,
        "IOMMU_IOAS_UNMAP" => 0x3b86,
        _ => return None,
    })
}

fn number(errno: &str) -> Option<i32> {
    (1..134).find(|number| {
        let name = match *number {
            libc::E2BIG => "E2BIG",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EAGAIN => "EAGAIN",
            libc::EBADF => "EBADF",
            libc::EBADFD => "EBADFD",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::EFAULT => "EFAULT",
            libc::EINVAL => "EINVAL",
            libc::EIO => "EIO",
            libc::EMFILE => "EMFILE",
            libc::EMSGSIZE => "EMSGSIZE",
            libc::ENODEV => "ENODEV",
            libc::ENOENT => "ENOENT",
            libc::ENOMEM => "ENOMEM",
            libc::ENOSPC => "ENOSPC",
            libc::ENOTTY => "ENOTTY",
            libc::ENXIO => "ENXIO",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EOVERFLOW => "EOVERFLOW",
            libc::EPERM => "EPERM",
            _ => "",
        };
        name == errno
    })
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    for (file, code) in [
        (OFF_FILE, POWER_OFF),
        (RESET_FILE, RESET),
        (HALT_FILE, HALT),
    ] {
        if let Err(e) = fs::write(file, elf(code)) {
            eprintln!("refuse: {file}: {e}");
            return ExitCode::FAILURE;
        }
    }
    let [interface, bdf, kernel, initrd, rest @ ..] = &words[..] else {
        return ExitCode::SUCCESS;
    };
    let mut good = true;
    for row in rows().filter(|row| [interface, "both", "kvm"].contains(&row.interface)) {
        let hot = row.call.contains("HOT_RESET");
        let device = if hot { rest.first() } else { Some(bdf) };
        let (Some(request), Some(bdf)) = (request(row.call), device) else {
            continue;
        };
        let pins = pinned();
        let outcome = try_row(&row, request, &[interface, bdf, kernel, initrd]).and_then(|()| {
            let now = pinned();
            let files = open_files();
            match (now == pins, files) {
                (true, 0) => Ok(()),
                _ => Err(format!(
                    "{pins} pages were pinned, and {now} are; {files} files open"
                )),
            }
        });
        good &= outcome.is_ok();
        let outcome = outcome.map_or_else(|why| why.replace('\n', " / "), |()| "ok".into());
        println!("LAB: refusal {} {} {outcome}", row.call, row.errno);
    }
    ExitCode::from(u8::from(!good))
}

/// Runs mini-vmm, and compares what it says with the row.
fn try_row(row: &Row, request: u16, words: &[&str]) -> Result<(), String> {
    let [interface, bdf, kernel, initrd] = words else {
        return Err("too few words".into());
    };
    let errno = number(row.errno).ok_or("an unknown errno")?;
    let mut command = Command::new("mini-vmm");
    // All memory is mapped before the guest runs, so that a guest cannot end before a map fails.
    command.args([
        "--iommu",
        interface,
        "--vfio",
        bdf,
        "--memory",
        "128M,prefault=on",
    ]);
    match row.when {
        "guest" => command.args(["--kernel", kernel, "--initrd", initrd]),
        "reset" => command.args(["--kernel", RESET_FILE]),
        _ => command.args(["--kernel", OFF_FILE]),
    };
    match (row.call, row.when) {
        ("KVM_ENABLE_CAP", _) => command.args(["--cpus", "1,idle=native"]),
        (_, "guest") => command.args(["--cmdline", "quiet panic=-1"]),
        _ => &mut command,
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if row.call.contains("HOT_RESET") {
        // The bus is reset only if the device's own reset fails.
        answer_ioctl(&mut command, 0x3b6f, libc::EINVAL);
    }
    answer_ioctl(&mut command, request, errno);
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let said = listen(&mut child);
    let ends = ["start", "run", "end"].contains(&row.when);
    let chain = format!("{} ({}", row.meaning, row.call);
    let mut text = String::new();
    let begun = Instant::now();
    let status = loop {
        while let Ok(more) = said.recv_timeout(Duration::from_millis(20)) {
            text.push_str(&more);
        }
        if let Ok(Some(status)) = child.try_wait() {
            text.extend(said.iter());
            break status;
        }
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no end after {LIMIT:?}: {text}"));
        }
        if !ends && text.contains(&chain) {
            // SAFETY: the call touches no memory, and the child has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        }
    };
    let expected = if ends { 1 } else { 0 };
    let last: Vec<&str> = text.lines().rev().take(2).collect();
    let kernels = io::Error::from_raw_os_error(errno).to_string();
    let hinted = !ends || last.first() == Some(&&*format!("hint: {}", row.hint));
    let told = match ends {
        true => last.get(1).is_some_and(|line| {
            line.starts_with("mini-vmm: ") && line.contains(&chain) && line.ends_with(&kernels)
        }),
        false => text.contains(&chain) && text.contains(&kernels),
    };
    match (status.code() == Some(expected), told, hinted) {
        (true, true, true) => Ok(()),
        _ => Err(format!("status {status}, said: {text}")),
    }
}

/// Reads what a child says on standard error.
fn listen(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stderr = child.stderr.take();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        let Some(mut stderr) = stderr else { return };
        while let Ok(count @ 1..) = stderr.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Pages that are pinned for devices.
fn pinned() -> i64 {
    // Each CPU counts for itself; a write to this file adds up the counters.
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let value = |name: &str| -> i64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
    };
    value("nr_foll_pin_acquired ") - value("nr_foll_pin_released ")
}

/// How many files of KVM, VFIO and iommufd the processes of L1 have open.
fn open_files() -> usize {
    let files = fs::read_dir("/proc").into_iter().flatten().flatten();
    let files = files.filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
    let links = files.flatten().flatten();
    let links = links.filter_map(|file| fs::read_link(file.path()).ok());
    let ours = |link: &std::path::PathBuf| {
        let link = link.to_string_lossy();
        ["kvm", "vfio", "iommu"]
            .iter()
            .any(|name| link.contains(name))
    };
    links.filter(ours).count()
}

/// An ELF with a PVH note, which loads `code` at 1 MiB and enters there (System V ABI, "Object
/// Files"; Xen, docs/misc/pvh.pandoc).
fn elf(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x10_0000;
    const HEADERS: u64 = 64 + 2 * 56;
    let mut note = [4u32, 8, 18].map(u32::to_le_bytes).concat();
    note.extend(b"Xen\0");
    note.extend(BASE.to_le_bytes());
    let header = |kind: u32, at: u64, to: u64, len: usize| {
        let mut bytes = [kind, 5].map(u32::to_le_bytes).concat();
        let len = len as u64;
        bytes.extend([at, to, to, len, len, 4].map(u64::to_le_bytes).concat());
        bytes
    };
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2u16, 62].map(u16::to_le_bytes).concat());
    image.extend(1u32.to_le_bytes());
    image.extend([BASE, 64, 0].map(u64::to_le_bytes).concat());
    image.extend(0u32.to_le_bytes());
    image.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    image.extend(header(1, HEADERS, BASE, code.len()));
    image.extend(header(4, HEADERS + code.len() as u64, 0, note.len()));
    image.extend(code);
    image.extend(note);
    image
}
