//! Loads a bzImage by the 64-bit boot protocol, and writes the zero page.
//!
//! Documentation/arch/x86/boot.rst: "The Real-Mode Kernel Header" for the fields, "64-bit Boot
//! Protocol" for the entry, zero-page.rst for `struct boot_params`. linux-loader copies the
//! payload. This file makes the checks that linux-loader does not make: the kernel has a 64-bit
//! entry, the load address is valid, and all of `init_size` is RAM.

use std::os::unix::fs::FileExt;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{
    LOADED_HIGH, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header,
};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use crate::boot::e820::e820;
use crate::boot::entry::{Extent, Handover};
use crate::boot::error::BootError;
use crate::boot::file::BootFile;
use crate::layout::{HIGH_MEMORY_START, LOW_CMDLINE, LOW_CMDLINE_SIZE, LOW_ZERO_PAGE, Layout};
use crate::memory::guest_memory::GuestMemory;

/// "HdrS" at [`MAGIC_OFFSET`].
pub(super) const MAGIC: [u8; 4] = *b"HdrS";
/// Where the magic is in the file.
pub(super) const MAGIC_OFFSET: u64 = 0x202;

/// Where the setup header starts in the file and in the zero page.
const HEADER_START: usize = 0x1f1;
/// The header ends at this offset plus the byte at 0x201, which is the target of the jump at 0x200.
const HEADER_END_BASE: usize = 0x202;
/// The end of `init_size`, the last field that this file needs.
const HEADER_LEAST_END: usize = 0x264;
/// Protocol 2.12, the first with `xloadflags` (Linux 3.8).
const LEAST_VERSION: u16 = 0x020c;
/// Offset of the 64-bit entry in the loaded payload: boot.rst, "64-bit Boot Protocol".
const ENTRY_64: u64 = 0x200;
/// `type_of_loader`: "undefined", for loaders without a number of their own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Sectors of the setup code if `setup_sects` is 0.
const DEFAULT_SETUP_SECTS: u8 = 4;
const SECTOR: u64 = 512;

/// A bzImage whose header has been checked against its file.
pub(super) struct Image {
    header: setup_header,
    /// Where the payload is loaded.
    start: u64,
    /// Bytes from `start` that the kernel needs before it reads the memory map.
    size: u64,
}

impl Image {
    /// Reads and checks the setup header.
    pub(super) fn read(source: &BootFile) -> Result<Self, BootError> {
        let file_size = source.size()?;
        let header = read_header(source, file_size)?;
        let unusable = |reason: String| BootError::Unusable {
            path: source.path.clone(),
            reason,
        };
        // The fields are copied, because the structure is packed.
        let (version, xloadflags, init_size) =
            (header.version, header.xloadflags, header.init_size);
        if version < LEAST_VERSION {
            return Err(unusable(format!(
                "its boot protocol is {}.{:02}, and the 64-bit one begins with 2.12",
                version >> 8,
                version & 0xff
            )));
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(unusable("it is a zImage, not a bzImage".into()));
        }
        if xloadflags & XLF_KERNEL_64 == 0 {
            return Err(unusable("it has no 64-bit entry point".into()));
        }

        let sects = match header.setup_sects {
            0 => DEFAULT_SETUP_SECTS,
            n => n,
        };
        let setup = (u64::from(sects) + 1) * SECTOR;
        let payload = u64::from(header.syssize) * 16;
        let needed = setup + payload;
        if file_size < needed {
            return Err(source.truncated(file_size, needed));
        }
        if payload <= ENTRY_64 {
            return Err(unusable("it holds no code".into()));
        }
        // Bytes after the payload, such as a signature, are loaded as well.
        let size = (file_size - setup).max(init_size.into());
        let start = load_address(&header).map_err(unusable)?;
        Ok(Self {
            header,
            start,
            size,
        })
    }

    /// The RAM that the kernel uses before it knows the memory map.
    pub(super) fn extent(&self) -> Extent {
        Extent {
            start: self.start,
            end: self.start.saturating_add(self.size),
        }
    }

    /// The first address above the range in which an initrd may lie.
    pub(super) fn initrd_limit(&self) -> u64 {
        u64::from(self.header.initrd_addr_max) + 1
    }

    /// The most bytes of a command line, without the NUL.
    pub(super) fn cmdline_limit(&self) -> u64 {
        u64::from(self.header.cmdline_size).min(LOW_CMDLINE_SIZE - 1)
    }

    /// Copies the payload; the caller has checked that [`Self::extent`] is RAM.
    ///
    /// Returns the setup header for the zero page, and the address of the 64-bit entry.
    pub(super) fn load(
        &self,
        source: &BootFile,
        memory: &GuestMemory,
    ) -> Result<(setup_header, u64), BootError> {
        let loaded = BzImage::load(
            memory,
            Some(GuestAddress(self.start)),
            &mut &source.file,
            Some(GuestAddress(HIGH_MEMORY_START)),
        )
        .map_err(|source_error| BootError::Load {
            path: source.path.clone(),
            source: source_error,
        })?;
        let mut header = self.header;
        // linux-loader's copy of the header contains bytes after the header's end. So only the
        // field that linux-loader sets is taken from its copy.
        if let Some(theirs) = loaded.setup_header {
            header.code32_start = theirs.code32_start;
        }
        Ok((header, loaded.kernel_load.0.saturating_add(ENTRY_64)))
    }
}

/// Reads the setup header, and zeroes the structure after the header's end. Byte 0x201 gives the
/// length (boot.rst); the bytes after the header are code, not fields.
fn read_header(source: &BootFile, file_size: u64) -> Result<setup_header, BootError> {
    let mut header = setup_header::default();
    let whole = HEADER_START + size_of::<setup_header>();
    if file_size < whole as u64 {
        return Err(source.truncated(file_size, whole as u64));
    }
    source
        .file
        .read_exact_at(header.as_mut_slice(), HEADER_START as u64)
        .map_err(|e| source.unreadable(e))?;
    let end = HEADER_END_BASE + usize::from(header.jump >> 8);
    if end < HEADER_LEAST_END {
        return Err(BootError::Unusable {
            path: source.path.clone(),
            reason: format!(
                "its setup header ends at {end:#x}, before the fields of protocol 2.12"
            ),
        });
    }
    if let Some(beyond) = header.as_mut_slice().get_mut(end - HEADER_START..) {
        beyond.fill(0);
    }
    Ok(header)
}

/// The address at which to load the payload: boot.rst, "pref_address", "relocatable_kernel" and
/// "kernel_alignment".
///
/// A relocatable kernel, too, is loaded at its preferred address: from a lower address it would
/// first move itself up.
fn load_address(header: &setup_header) -> Result<u64, String> {
    let (preferred, alignment) = (header.pref_address, header.kernel_alignment);
    if header.relocatable_kernel == 0 {
        return if preferred < HIGH_MEMORY_START {
            Err(format!("it must be loaded at {preferred:#x}, below 1 MiB"))
        } else {
            Ok(preferred)
        };
    }
    if !alignment.is_power_of_two() {
        return Err(format!(
            "its alignment {alignment:#x} is not a power of two"
        ));
    }
    preferred
        .max(HIGH_MEMORY_START)
        .checked_next_multiple_of(alignment.into())
        .ok_or_else(|| format!("its preferred address is {preferred:#x}"))
}

/// Makes a setup header for an ELF vmlinux that is entered at its 64-bit entry: the file has none.
pub(super) fn header_for_vmlinux() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(MAGIC),
        // With version zero the kernel would assume that it got no zero page.
        version: LEAST_VERSION,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    }
}

/// Writes the zero page at `LOW_ZERO_PAGE`.
pub(super) fn write_zero_page(
    mut header: setup_header,
    memory: &GuestMemory,
    layout: &Layout,
    handover: &Handover,
) -> Result<(), BootError> {
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = LOW_CMDLINE as u32;
    if let Some(initrd) = handover.initrd {
        // The initrd is below 4 GiB, so `ext_ramdisk_*` stay zero.
        header.ramdisk_image = initrd.start as u32;
        header.ramdisk_size = initrd.size as u32;
    }
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: handover.rsdp,
        ..Default::default()
    };
    let map = e820(layout);
    params.e820_entries = map.len() as u8;
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.size,
            r#type: entry.kind as u32,
        };
    }
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(LOW_ZERO_PAGE)),
        memory,
    )
    .map_err(BootError::Configure)
}
