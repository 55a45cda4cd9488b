//! From files and a command line to guest memory and the registers of vCPU 0.
//!
//! [`Images`] holds the kernel and the initrd, checked before any VM exists. [`Images::load`] puts
//! them into guest memory with all that the kernel expects beside them, and may be called again
//! for every reboot. The kernel's own magic picks the protocol:
//!
//! - a bzImage is entered in long mode with a zero page (`linux`, Documentation/arch/x86/boot.rst);
//! - an ELF image is entered by its PVH note in 32-bit protected mode (`pvh`, Xen's
//!   docs/misc/pvh.pandoc), or without such a note like a bzImage at its own entry (`elf`).

pub mod acpi;
pub mod cpu_state;
mod dsdt;
pub mod e820;
mod elf;
mod error;
mod linux;
mod pvh;
mod reboot_stub;

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use error::{BootError, Role};
use linux_loader::loader::{Cmdline, load_cmdline};
use pci::addr::Range;
use vm_memory::{Bytes, GuestAddress};

use crate::layout::{LOW_CMDLINE, LOW_CMDLINE_SIZE, LOW_PVH_INFO, LOW_ZERO_PAGE, Layout};
use crate::memory::GuestMemory;

const PAGE: u64 = 4096;

/// How vCPU 0 starts; [`cpu_state::CpuState`] turns it into registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Long mode, identity-mapped, `rsi` pointing at the zero page.
    Linux64 {
        /// The first instruction, guest-physical.
        rip: u64,
        /// `struct boot_params`, guest-physical.
        zero_page: u64,
    },
    /// 32-bit protected mode without paging, `ebx` pointing at `hvm_start_info`.
    Pvh {
        /// The first instruction, guest-physical, below 4 GiB.
        eip: u64,
        /// `struct hvm_start_info`, guest-physical.
        start_info: u64,
    },
}

/// The kernel and the initrd: opened, and the kernel's headers checked.
#[derive(Debug)]
pub struct Images {
    kernel: Source,
    initrd: Option<Source>,
}

/// A regular file that the user named.
#[derive(Debug)]
struct Source {
    role: Role,
    path: PathBuf,
    file: File,
}

/// Guest-physical addresses that a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    start: u64,
    /// Exclusive.
    end: u64,
}

/// Kernel and initrd in guest memory.
pub struct Loaded {
    start: elf::Start,
    initrd: Option<Range>,
}

/// What the boot structures of both protocols point at, the command line apart.
struct Handover {
    /// Guest-physical.
    rsdp: u64,
    /// Below 4 GiB.
    initrd: Option<Range>,
}

enum Kernel {
    BzImage(linux::Image),
    Elf(elf::Image),
}

impl Images {
    /// Opens both files and checks the kernel's headers, before any VM exists.
    ///
    /// # Errors
    ///
    /// A file that is missing, not readable or no regular file; a kernel that is none, truncated,
    /// or not for this machine.
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, BootError> {
        let kernel = Source::open(Role::Kernel, kernel)?;
        Kernel::read(&kernel)?;
        let initrd = initrd
            .map(|path| Source::open(Role::Initrd, path))
            .transpose()?;
        if let Some(source) = &initrd
            && source.size()? == 0
        {
            return Err(BootError::EmptyInitrd(source.path.clone()));
        }
        Ok(Self { kernel, initrd })
    }

    /// Whether kernel, initrd and command line fit such a guest: what [`Self::load`] checks
    /// first, for a caller who wants to know before memory is allocated.
    ///
    /// # Errors
    ///
    /// The kernel or the initrd needs more memory; the command line is too long or not ASCII.
    pub fn check(&self, layout: &Layout, cmdline: &str) -> Result<(), BootError> {
        self.place(layout, cmdline).map(|_| ())
    }

    /// Loads everything into guest memory: the files, and what goes with them.
    ///
    /// # Errors
    ///
    /// Those of [`Self::load_files`] and [`Self::load_rest`].
    pub fn load(
        &self,
        memory: &GuestMemory,
        layout: &Layout,
        cmdline: &str,
        acpi: &acpi::Placed,
    ) -> Result<Entry, BootError> {
        let loaded = self.load_files(memory, layout, cmdline)?;
        self.load_rest(loaded, memory, layout, cmdline, acpi)
    }

    /// Loads kernel and initrd, which takes the time that loading takes. Of `layout` only RAM counts.
    ///
    /// # Errors
    ///
    /// Those of [`Self::check`]; a file that has changed or cannot be read any more; `memory`
    /// that is smaller than `layout` says.
    pub fn load_files(
        &self,
        memory: &GuestMemory,
        layout: &Layout,
        cmdline: &str,
    ) -> Result<Loaded, BootError> {
        let (kernel, initrd) = self.place(layout, cmdline)?;
        if let (Some(source), Some(range)) = (&self.initrd, initrd) {
            source.copy(memory, range)?;
        }
        let start = match &kernel {
            Kernel::BzImage(image) => {
                let (header, rip) = image.load(&self.kernel, memory)?;
                elf::Start::Linux64(rip, Box::new(header))
            }
            Kernel::Elf(image) => image.load(&self.kernel, memory)?,
        };
        Ok(Loaded { start, initrd })
    }

    /// Adds all else: command line, ACPI tables, boot parameters, GDT and page tables.
    ///
    /// # Errors
    ///
    /// `memory` that is smaller than `layout` says.
    pub fn load_rest(
        &self,
        loaded: Loaded,
        memory: &GuestMemory,
        layout: &Layout,
        cmdline: &str,
        acpi: &acpi::Placed,
    ) -> Result<Entry, BootError> {
        let handover = Handover {
            rsdp: acpi.rsdp,
            initrd: loaded.initrd,
        };
        acpi.write(memory)?;
        reboot_stub::write(memory)?;
        write_cmdline(memory, cmdline)?;
        let entry = match loaded.start {
            elf::Start::Linux64(rip, header) => {
                linux::write_zero_page(*header, memory, layout, &handover)?;
                Entry::Linux64 {
                    rip,
                    zero_page: LOW_ZERO_PAGE,
                }
            }
            elf::Start::Pvh(eip) => {
                pvh::write_start_info(memory, layout, &handover)?;
                Entry::Pvh {
                    eip,
                    start_info: LOW_PVH_INFO,
                }
            }
        };
        cpu_state::write_tables(memory, &entry)?;
        Ok(entry)
    }

    /// The kernel, read anew since the file may have changed, and the place for the initrd.
    fn place(&self, layout: &Layout, cmdline: &str) -> Result<(Kernel, Option<Range>), BootError> {
        let kernel = Kernel::read(&self.kernel)?;
        let low_ram = layout.low_ram.end();
        let extent = kernel.extent();
        if extent.end > low_ram {
            return Err(BootError::KernelDoesNotFit {
                start: extent.start,
                end: extent.end,
                low_ram,
            });
        }
        check_cmdline(cmdline, kernel.cmdline_limit())?;
        let initrd = match &self.initrd {
            None => None,
            Some(source) => Some(place_initrd(
                source.size()?,
                extent.end,
                low_ram,
                kernel.initrd_limit(),
            )?),
        };
        Ok((kernel, initrd))
    }
}

/// As high as RAM and the kernel allow, so that it is out of the way of the kernel's unpacking.
fn place_initrd(
    size: u64,
    kernel_end: u64,
    low_ram: u64,
    reachable: u64,
) -> Result<Range, BootError> {
    let limit = low_ram.min(reachable);
    limit
        .checked_sub(size)
        .map(|start| start - start % PAGE)
        .filter(|&start| start >= kernel_end)
        .map(|start| Range { start, size })
        .ok_or(BootError::InitrdDoesNotFit {
            size,
            kernel_end,
            limit,
            limit_is_ram: low_ram < reachable,
        })
}

fn check_cmdline(cmdline: &str, limit: u64) -> Result<(), BootError> {
    if let Some(position) = cmdline.find('\0') {
        return Err(BootError::CmdlineNul(position));
    }
    let odd = cmdline
        .char_indices()
        .find(|(_, c)| !matches!(c, ' '..='~'));
    if let Some((position, character)) = odd {
        return Err(BootError::CmdlineNotAscii {
            character,
            position,
        });
    }
    let length = cmdline.len() as u64;
    if length > limit {
        return Err(BootError::CmdlineTooLong { length, limit });
    }
    Ok(())
}

/// Writes the command line, which [`check_cmdline`] has passed, with its NUL.
fn write_cmdline(memory: &GuestMemory, text: &str) -> Result<(), BootError> {
    let mut cmdline = Cmdline::new(LOW_CMDLINE_SIZE as usize).map_err(BootError::Cmdline)?;
    if !text.trim().is_empty() {
        cmdline.insert_str(text).map_err(BootError::Cmdline)?;
    }
    load_cmdline(memory, GuestAddress(LOW_CMDLINE), &cmdline).map_err(BootError::CmdlineCopy)
}

impl Kernel {
    fn read(source: &Source) -> Result<Self, BootError> {
        if source.has(elf::MAGIC, 0)? {
            elf::Image::read(source).map(Self::Elf)
        } else if source.has(linux::MAGIC, linux::MAGIC_OFFSET)? {
            linux::Image::read(source).map(Self::BzImage)
        } else {
            Err(BootError::NotAKernel(source.path.clone()))
        }
    }

    fn extent(&self) -> Extent {
        match self {
            Self::BzImage(image) => image.extent(),
            Self::Elf(image) => image.extent(),
        }
    }

    fn cmdline_limit(&self) -> u64 {
        match self {
            Self::BzImage(image) => image.cmdline_limit(),
            Self::Elf(image) => image.cmdline_limit(),
        }
    }

    fn initrd_limit(&self) -> u64 {
        match self {
            Self::BzImage(image) => image.initrd_limit(),
            // An ELF image does not say; 32-bit fields of the boot parameters carry the address.
            Self::Elf(_) => 1 << 32,
        }
    }
}

impl Source {
    fn open(role: Role, path: &Path) -> Result<Self, BootError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => BootError::Missing {
                role,
                path: path.into(),
            },
            _ => BootError::Unreadable {
                role,
                path: path.into(),
                source,
            },
        };
        // Looked at before it is opened: opening a pipe for reading waits for its writer.
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(BootError::Directory {
                role,
                path: path.into(),
            });
        }
        if !kind.is_file() {
            return Err(BootError::NotAFile {
                role,
                path: path.into(),
            });
        }
        Ok(Self {
            role,
            path: path.into(),
            file: File::open(path).map_err(failed)?,
        })
    }

    /// Bytes in the file as it is now.
    fn size(&self) -> Result<u64, BootError> {
        Ok(self.file.metadata().map_err(|e| self.unreadable(e))?.len())
    }

    /// Whether the file has these bytes there; a shorter file has not.
    fn has(&self, magic: [u8; 4], offset: u64) -> Result<bool, BootError> {
        let mut bytes = [0; 4];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes == magic),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(self.unreadable(e)),
        }
    }

    /// Copies the initrd into guest memory.
    fn copy(&self, memory: &GuestMemory, to: Range) -> Result<(), BootError> {
        (&self.file).rewind().map_err(|e| self.unreadable(e))?;
        memory
            .read_exact_volatile_from(GuestAddress(to.start), &mut &self.file, to.size as usize)
            .map_err(|source| BootError::Memory {
                what: "initrd",
                source,
            })
    }

    fn unreadable(&self, source: io::Error) -> BootError {
        BootError::Unreadable {
            role: self.role,
            path: self.path.clone(),
            source,
        }
    }

    fn truncated(&self, size: u64, needed: u64) -> BootError {
        BootError::Truncated {
            path: self.path.clone(),
            size,
            needed,
        }
    }
}

#[cfg(test)]
mod tests;
