//! Loads kernel and initrd from the user's files into guest memory.

use std::path::Path;

use linux_loader::loader::{Cmdline, load_cmdline};
use pci::addr::Range;
use vm_memory::GuestAddress;

use crate::boot::acpi::AcpiTables;
use crate::boot::entry::{Entry, Extent, Handover};
use crate::boot::error::{BootError, Role};
use crate::boot::file::BootFile;
use crate::boot::{cpu_state, elf, linux, pvh, reboot_stub};
use crate::layout::{LOW_CMDLINE, LOW_CMDLINE_SIZE, LOW_PVH_INFO, LOW_ZERO_PAGE, Layout};
use crate::memory::guest_memory::GuestMemory;

const PAGE: u64 = 4096;

/// The kernel and the initrd: open files, the kernel's headers checked.
#[derive(Debug)]
pub struct Images {
    kernel: BootFile,
    initrd: Option<BootFile>,
}

/// Kernel and initrd in guest memory.
pub struct Loaded {
    start: elf::Start,
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
    /// A file is missing, not readable or not a regular file; the kernel is not a kernel,
    /// truncated, or not for this machine; the initrd is empty.
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, BootError> {
        let kernel = BootFile::open(Role::Kernel, kernel)?;
        Kernel::read(&kernel)?;
        let initrd = initrd
            .map(|path| BootFile::open(Role::Initrd, path))
            .transpose()?;
        if let Some(source) = &initrd
            && source.size()? == 0
        {
            return Err(BootError::EmptyInitrd(source.path.clone()));
        }
        Ok(Self { kernel, initrd })
    }

    /// Checks that kernel, initrd and command line fit into a guest of this layout, before its
    /// memory is allocated. [`Self::load_files`] repeats the check.
    ///
    /// # Errors
    /// The kernel or the initrd needs more memory; the command line is too long or not ASCII.
    pub fn check(&self, layout: &Layout, cmdline: &str) -> Result<(), BootError> {
        self.fit(layout, cmdline).map(|_| ())
    }

    /// Loads everything into guest memory: [`Self::load_files`] and [`Self::load_rest`].
    ///
    /// # Errors
    /// Those of [`Self::load_files`] and [`Self::load_rest`].
    pub fn load(
        &self,
        memory: &GuestMemory,
        layout: &Layout,
        cmdline: &str,
        acpi: &AcpiTables,
    ) -> Result<Entry, BootError> {
        let loaded = self.load_files(memory, layout, cmdline)?;
        self.load_rest(loaded, memory, layout, cmdline, acpi)
    }

    /// Loads kernel and initrd, which takes most of the time of loading. Only the RAM of `layout`
    /// is used, not its windows.
    ///
    /// # Errors
    /// Those of [`Self::check`]; a file has changed or cannot be read any more; `memory` is smaller
    /// than the RAM of `layout`.
    pub fn load_files(
        &self,
        memory: &GuestMemory,
        layout: &Layout,
        cmdline: &str,
    ) -> Result<Loaded, BootError> {
        let (kernel, initrd) = self.fit(layout, cmdline)?;
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

    /// Writes everything else that the kernel needs: command line, ACPI tables, reboot stub, boot
    /// parameters, GDT and page tables.
    ///
    /// # Errors
    /// `memory` is smaller than the RAM of `layout`.
    pub fn load_rest(
        &self,
        loaded: Loaded,
        memory: &GuestMemory,
        layout: &Layout,
        cmdline: &str,
        acpi: &AcpiTables,
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

    /// Reads the kernel again, since its file may have changed, and finds the addresses of the
    /// initrd.
    fn fit(&self, layout: &Layout, cmdline: &str) -> Result<(Kernel, Option<Range>), BootError> {
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
            Some(source) => Some(fit_initrd(
                source.size()?,
                extent.end,
                low_ram,
                kernel.initrd_limit(),
            )?),
        };
        Ok((kernel, initrd))
    }
}

/// Puts the initrd as high as RAM and the kernel allow, so that the kernel can unpack itself below.
fn fit_initrd(
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

/// Writes the command line, which [`check_cmdline`] has accepted, and its NUL.
fn write_cmdline(memory: &GuestMemory, text: &str) -> Result<(), BootError> {
    let mut cmdline = Cmdline::new(LOW_CMDLINE_SIZE as usize).map_err(BootError::Cmdline)?;
    if !text.trim().is_empty() {
        cmdline.insert_str(text).map_err(BootError::Cmdline)?;
    }
    load_cmdline(memory, GuestAddress(LOW_CMDLINE), &cmdline).map_err(BootError::CmdlineCopy)
}

impl Kernel {
    fn read(source: &BootFile) -> Result<Self, BootError> {
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
            // An ELF image has no such limit, but the boot parameters have 32-bit fields for the
            // address.
            Self::Elf(_) => 1 << 32,
        }
    }
}

#[cfg(test)]
mod tests;
