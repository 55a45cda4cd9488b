//! Kernel images of the smallest kind that loads (Documentation/arch/x86/boot.rst; System V ABI,
//! "Object Files"; Xen, docs/misc/pvh.pandoc).

/// Bytes of a bzImage before its protected-mode code.
const BZ_SETUP: usize = 1024;

/// Writes bytes over an image's.
pub fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A relocatable bzImage of protocol 2.15 that wants 16 MiB to 24 MiB.
pub fn bzimage() -> Vec<u8> {
    bzimage_of(4096)
}

/// The same with so many bytes of protected-mode code, a multiple of 16.
pub fn bzimage_of(payload: usize) -> Vec<u8> {
    let mut image = vec![0x90; BZ_SETUP + payload];
    image[..BZ_SETUP].fill(0);
    image[0x1f1] = 1; // setup_sects
    put(&mut image, 0x1f4, &(payload as u32 / 16).to_le_bytes()); // syssize
    put(&mut image, 0x1fe, &0xaa55u16.to_le_bytes());
    put(&mut image, 0x200, &[0xeb, 0x6a]); // the header ends at 0x26c
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    image[0x211] = 1; // LOADED_HIGH
    put(&mut image, 0x214, &0x10_0000u32.to_le_bytes()); // code32_start
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
    image[0x234] = 1; // relocatable_kernel
    put(&mut image, 0x236, &1u16.to_le_bytes()); // XLF_KERNEL_64
    put(&mut image, 0x238, &2047u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes()); // pref_address
    put(&mut image, 0x260, &0x80_0000u32.to_le_bytes()); // init_size
    image
}

/// An ELF image of one segment at 16 MiB, 32 bytes in the file and 64 KiB in memory. Its PVH note,
/// if it has one, has an entry of four bytes at 0xc0.
pub fn elf(note: bool) -> Vec<u8> {
    let entry = 0x100_0010u32.to_le_bytes();
    Elf {
        address: 0x100_0000,
        content: &[0xf4; 32],
        in_memory: 0x1_0000,
        pvh_entry: note.then_some(&entry[..]),
    }
    .image()
}

/// An ELF kernel of one segment.
pub struct Elf<'a> {
    /// Where the segment is loaded; also the entry of the ELF header.
    pub address: u64,
    pub content: &'a [u8],
    /// Bytes that the segment takes in memory.
    pub in_memory: u64,
    /// The content of a PVH note: the entry in four or eight bytes.
    pub pvh_entry: Option<&'a [u8]>,
}

impl Elf<'_> {
    /// Offsets in the file: program headers, the note, and the segment.
    const HEADERS: usize = 64;
    const HEADER_SIZE: usize = 56;
    const NOTE: usize = Self::HEADERS + 2 * Self::HEADER_SIZE;
    const CONTENT: usize = 0x100;

    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; Self::CONTENT];
        put(&mut image, 0, b"\x7fELF\x02\x01\x01");
        put(&mut image, 16, &2u16.to_le_bytes()); // e_type: executable
        put(&mut image, 18, &62u16.to_le_bytes()); // e_machine: x86-64
        put(&mut image, 20, &1u32.to_le_bytes()); // e_version
        put(&mut image, 24, &self.address.to_le_bytes()); // e_entry
        put(&mut image, 32, &(Self::HEADERS as u64).to_le_bytes()); // e_phoff
        put(&mut image, 52, &64u16.to_le_bytes()); // e_ehsize
        put(&mut image, 54, &(Self::HEADER_SIZE as u16).to_le_bytes());
        let headers = 1 + u16::from(self.pvh_entry.is_some());
        put(&mut image, 56, &headers.to_le_bytes()); // e_phnum
        let size = self.content.len() as u64;
        let segment = &mut image[Self::HEADERS..];
        program_header(
            segment,
            1,
            Self::CONTENT,
            self.address,
            (size, self.in_memory),
        );
        if let Some(entry) = self.pvh_entry {
            self.add_note(&mut image, entry);
        }
        image.extend_from_slice(self.content);
        image
    }

    /// The note XEN_ELFNOTE_PHYS32_ENTRY, and the header that leads to it.
    fn add_note(&self, image: &mut [u8], entry: &[u8]) {
        let size = 16 + entry.len() as u64;
        let header = &mut image[Self::HEADERS + Self::HEADER_SIZE..];
        program_header(header, 4, Self::NOTE, 0, (size, size));
        // Lengths of name and content, type, name, content.
        for (at, word) in [(0, 4), (4, entry.len() as u32), (8, 18)] {
            put(image, Self::NOTE + at, &word.to_le_bytes());
        }
        put(image, Self::NOTE + 12, b"Xen\0");
        put(image, Self::NOTE + 16, entry);
    }
}

/// A program header; `sizes` are those in the file and in memory.
fn program_header(at: &mut [u8], kind: u32, offset: usize, address: u64, sizes: (u64, u64)) {
    put(at, 0, &kind.to_le_bytes());
    put(at, 4, &7u32.to_le_bytes()); // p_flags
    put(at, 8, &(offset as u64).to_le_bytes());
    put(at, 16, &address.to_le_bytes()); // p_vaddr
    put(at, 24, &address.to_le_bytes()); // p_paddr
    put(at, 32, &sizes.0.to_le_bytes());
    put(at, 40, &sizes.1.to_le_bytes());
    put(at, 48, &4u64.to_le_bytes()); // p_align
}
