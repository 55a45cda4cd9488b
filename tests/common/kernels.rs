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
    let mut image = vec![0x90; BZ_SETUP + 4096];
    image[..BZ_SETUP].fill(0);
    image[0x1f1] = 1; // setup_sects
    put(&mut image, 0x1f4, &256u32.to_le_bytes()); // syssize
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

/// An ELF image of one segment at 16 MiB, 32 bytes in the file and 64 KiB in memory.
pub fn elf(note: bool) -> Vec<u8> {
    let mut image = vec![0; 0x120];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes());
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 24, &0x100_0000u64.to_le_bytes()); // e_entry
    put(&mut image, 32, &64u64.to_le_bytes()); // e_phoff
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &(1 + u16::from(note)).to_le_bytes());
    segment(&mut image[64..], 1, 0x100, 32, 0x1_0000);
    put(&mut image, 0x100, &[0xf4; 32]);
    if note {
        segment(&mut image[120..], 4, 0xb0, 20, 20);
        put(&mut image, 0xb0, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        put(&mut image, 0xbc, b"Xen\0");
        put(&mut image, 0xc0, &0x100_0010u32.to_le_bytes());
    }
    image
}

/// A program header of what is loaded at 16 MiB.
fn segment(at: &mut [u8], kind: u32, offset: u64, from_file: u64, in_memory: u64) {
    put(at, 0, &kind.to_le_bytes());
    put(at, 8, &offset.to_le_bytes());
    put(at, 24, &0x100_0000u64.to_le_bytes());
    put(at, 32, &from_file.to_le_bytes());
    put(at, 40, &in_memory.to_le_bytes());
}
