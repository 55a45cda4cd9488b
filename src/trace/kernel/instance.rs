//! A tracefs instance of the tracer's own (Documentation/trace/ftrace.rst, "Instances"): other
//! users of tracefs notice nothing of it. It goes with the tracer; what a killed tracer has left
//! goes with the next run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::kernel::format::Format;
use crate::kernel::owner::Owner;
use crate::kernel::page::Layout;

/// Where tracefs may be.
pub const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// The clock of the tracer's own times.
const CLOCK: &str = "mono";
/// The buffer of each CPU in KiB, and that of all CPUs. A CPU has at least [`LEAST`].
const BUFFER: usize = 4096;
const BUFFERS: usize = 128 << 10;
const LEAST: usize = 256;
/// The namespace of the host's processes (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const HOST: &str = "pid:[4026531836]";
/// The most bytes of a file of text.
const FILE: usize = 1 << 17;
/// The most pages that are read of a CPU at a time.
const PAGES: usize = 256;

/// An event that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The folder.
    pub system: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Which records.
    pub filter: Option<fn() -> String>,
    /// Whether a kernel may well be without it.
    pub optional: bool,
}

/// Why there is no instance.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// No tracefs.
    #[error("no events of the kernel are shown: there is no tracefs at /sys/kernel/tracing")]
    None,
    /// Not root.
    #[error("no events of the kernel are shown: tracefs is for root alone")]
    Permission,
    /// A container.
    #[error(
        "no events of the kernel are shown: the tracer is in a container, where processes have \
         other numbers than in the kernel's events"
    )]
    Container,
    /// A file says no.
    #[error("no events of the kernel are shown: {0} cannot be used: {1}")]
    File(PathBuf, #[source] io::Error),
    /// The instance is in use.
    #[error("the tracefs instance {0} cannot be removed: {1}")]
    Left(PathBuf, #[source] io::Error),
    /// A file is not what the kernel's documents say.
    #[error("no events of the kernel are shown: {0} is not understood")]
    Unknown(PathBuf),
}

impl InstanceError {
    /// What the user can type.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::None => {
                "mount -t tracefs tracefs /sys/kernel/tracing; a kernel needs CONFIG_FTRACE"
            }
            Self::Container => "run it on the host",
            Self::Permission => "run 'sudo mini-vmm trace --kernel …'",
            Self::File(..) => {
                "see that the kernel is not locked down (/sys/kernel/security/lockdown)"
            }
            Self::Left(..) => "the next run with --kernel removes it",
            Self::Unknown(_) => "leave --kernel out; everything else is shown without it",
        }
    }
}

/// An instance that records.
#[derive(Debug)]
pub struct Instance {
    path: PathBuf,
    pipes: Vec<(u32, File)>,
    /// Where the parts of a page are.
    pub layout: Layout,
    /// The formats of the events that there are.
    pub formats: Vec<(&'static str, Format)>,
    /// The events that there are not, as `kvm:kvm_eoi`.
    pub missing: Vec<String>,
}

impl Instance {
    /// Makes an instance with these events.
    ///
    /// # Errors
    /// There is no tracefs, or the tracer may not use it.
    pub fn new(wanted: &[Wanted]) -> Result<Self, InstanceError> {
        if !is_on_host() {
            return Err(InstanceError::Container);
        }
        let mut last = InstanceError::None;
        for root in ROOTS {
            match fs::metadata(Path::new(root).join("instances")) {
                Ok(_) => return Self::at(Path::new(root), Path::new("/proc"), wanted),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    last = InstanceError::Permission;
                }
                Err(_) => {}
            }
        }
        Err(last)
    }

    /// The same at a root of tracefs.
    ///
    /// # Errors
    /// The same.
    pub fn at(root: &Path, proc: &Path, wanted: &[Wanted]) -> Result<Self, InstanceError> {
        let instances = root.join("instances");
        remove_left(&instances, proc);
        let path = instances.join(Owner::own().name());
        fs::create_dir(&path).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => InstanceError::Permission,
            _ => InstanceError::File(path.clone(), e),
        })?;
        Self::in_folder(root, path, wanted)
    }

    /// The same in the folder of a new instance, which goes in any case.
    ///
    /// # Errors
    /// The same.
    pub fn in_folder(root: &Path, path: PathBuf, wanted: &[Wanted]) -> Result<Self, InstanceError> {
        let mut instance = Self {
            path,
            pipes: Vec::new(),
            layout: Layout::default(),
            formats: Vec::new(),
            missing: Vec::new(),
        };
        // A sub-buffer's size is an instance's own (buffer_subbuf_size_kb, Linux 6.8).
        let own = instance.path.join("events/header_page");
        let header = match own.exists() {
            true => own,
            false => root.join("events/header_page"),
        };
        let layout = Layout::parse(&read(&header)?);
        instance.layout = layout.ok_or(InstanceError::Unknown(header))?;
        instance.write("trace_clock", CLOCK)?;
        instance.open()?;
        let cpus = instance.pipes.len().max(1);
        let buffer = (BUFFERS / cpus).clamp(LEAST, BUFFER);
        instance.write("buffer_size_kb", &buffer.to_string())?;
        for event in wanted {
            if !instance.enable(event) && !event.optional {
                instance
                    .missing
                    .push(format!("{}:{}", event.system, event.name));
            }
        }
        instance.write("tracing_on", "1")?;
        Ok(instance)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), InstanceError> {
        let path = self.path.join(name);
        let written = OpenOptions::new().write(true).open(&path);
        let written = written.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
        written.map_err(|e| InstanceError::File(path, e))
    }

    /// Whether the event is recorded.
    fn enable(&mut self, event: &Wanted) -> bool {
        let folder = format!("events/{}/{}", event.system, event.name);
        let text = read(&self.path.join(&folder).join("format"));
        let Some(format) = text.ok().as_deref().and_then(Format::parse) else {
            return false;
        };
        let filter = event.filter.map_or(Ok(()), |filter| {
            self.write(&format!("{folder}/filter"), &filter())
        });
        let enabled = filter.and_then(|()| self.write(&format!("{folder}/enable"), "1"));
        if enabled.is_ok() {
            self.formats.push((event.name, format));
        }
        enabled.is_ok()
    }

    fn open(&mut self) -> Result<(), InstanceError> {
        let folder = self.path.join("per_cpu");
        let entries = fs::read_dir(&folder).map_err(|e| InstanceError::File(folder, e))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("cpu")?.parse().ok());
            let Some(cpu) = number else { continue };
            let path = entry.path().join("trace_pipe_raw");
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .map_err(|e| InstanceError::File(path, e))?;
            self.pipes.push((cpu, file));
        }
        self.pipes.sort_by_key(|(cpu, _)| *cpu);
        Ok(())
    }

    /// Reads what was recorded, page by page. `each` gets the CPU and a page, and returns the time
    /// of the last record. All that was recorded until the returned time was read: of a CPU with
    /// many pages, the rest is for the next time.
    pub fn read(&mut self, mut each: impl FnMut(u32, &[u8]) -> Option<u64>) -> u64 {
        let mut page = vec![0; self.layout.size];
        let mut read = u64::MAX;
        for (cpu, pipe) in &mut self.pipes {
            let mut last = 0;
            for count in 0.. {
                if count == PAGES {
                    read = read.min(last);
                    break;
                }
                match pipe.read(&mut page) {
                    Ok(len @ 1..) => last = each(*cpu, &page[..len]).unwrap_or(last),
                    // Nothing is there now (EAGAIN), or the CPU is gone.
                    _ => break,
                }
            }
        }
        read
    }

    /// Records no more.
    pub fn stop(&self) {
        // A kernel that refuses records what other programs do, which the reader skips.
        let _ = self.write("tracing_on", "0");
    }

    /// Records that were lost since the start: overwritten, or without room.
    pub fn lost(&self) -> u64 {
        let of = |cpu: &u32| {
            let stats = read(&self.path.join(format!("per_cpu/cpu{cpu}/stats")));
            let stats = stats.unwrap_or_default();
            let lines = stats.lines().filter_map(|line| line.split_once(':'));
            let lost = lines.filter(|(name, _)| {
                matches!(*name, "overrun" | "commit overrun" | "dropped events")
            });
            lost.filter_map(|(_, count)| count.trim().parse::<u64>().ok())
                .sum::<u64>()
        };
        self.pipes.iter().map(|(cpu, _)| of(cpu)).sum()
    }
}

impl Instance {
    /// Removes the instance.
    ///
    /// # Errors
    /// Somebody has a file of it open.
    pub fn remove(mut self) -> Result<(), InstanceError> {
        self.pipes.clear();
        let path = std::mem::take(&mut self.path);
        fs::remove_dir(&path).map_err(|e| InstanceError::Left(path, e))
    }
}

/// For ends on which nobody removes the instance.
impl Drop for Instance {
    fn drop(&mut self) {
        self.pipes.clear();
        if !self.path.as_os_str().is_empty() {
            // The next run tries again.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Whether processes have the numbers here that they have in the kernel's events.
pub fn is_on_host() -> bool {
    let namespace = fs::read_link("/proc/self/ns/pid");
    let namespace = namespace.ok();
    namespace.is_none_or(|namespace| namespace.as_os_str() == HOST)
}

/// Removes the instances of tracers that live no more. One that another run removes is gone too.
fn remove_left(instances: &Path, proc: &Path) {
    let entries = fs::read_dir(instances).into_iter().flatten().flatten();
    for entry in entries {
        let owner = entry.file_name().to_str().and_then(Owner::parse);
        if owner.is_some_and(|owner| !owner.lives(proc)) {
            drop(fs::remove_dir(entry.path()));
        }
    }
}

/// Reads a file by large reads: some files of tracefs give the first read alone
/// (kernel/trace/trace_events.c, `show_header_file`).
fn read(path: &Path) -> Result<String, InstanceError> {
    let all = File::open(path).and_then(|mut file| {
        let (mut all, mut part) = (Vec::new(), vec![0; FILE]);
        while all.len() < FILE {
            match file.read(&mut part)? {
                0 => break,
                len => all.extend_from_slice(&part[..len]),
            }
        }
        Ok(all)
    });
    let all = all.map_err(|e| InstanceError::File(path.into(), e))?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}
