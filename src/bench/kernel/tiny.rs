//! A guest of a few bytes, which says a line in its first instructions: an ELF image with a PVH
//! note (System V ABI, "Object Files"; Xen, docs/misc/pvh.pandoc), which mini-vmm and QEMU boot.

/// What the guest says.
pub const SAYS: &str = "!";

/// The address of the code.
const BASE: u64 = 0x10_0000;

/// The bytes before the note: the ELF header, and two program headers.
const HEADERS: u64 = 64 + 2 * 56;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Two bytes to the first serial port; a read of its line status, because a VMM may leave a write
/// in KVM until the next exit (Documentation/virt/kvm/api.rst, KVM_REGISTER_COALESCED_MMIO); and an
/// endless sleep. It means the same in 32-bit mode, which PVH has, and in 64-bit mode.
const CODE: [u8; 18] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'!', 0xee, // mov al, '!'; out dx, al
    0xb0, b'\n', 0xee, // mov al, '\n'; out dx, al
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, // in al, dx
    0xf4, 0xeb, 0xfd, // hlt; jmp to it
];

/// The image.
pub fn image() -> Vec<u8> {
    // The lengths of name and content, the type, the name, and the entry.
    let mut note = [4u32, 8, XEN_ELFNOTE_PHYS32_ENTRY]
        .map(u32::to_le_bytes)
        .concat();
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&BASE.to_le_bytes());
    let code = HEADERS + note.len() as u64;

    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2u16, 62].map(u16::to_le_bytes).concat()); // an executable, x86-64
    image.extend(1u32.to_le_bytes());
    image.extend([BASE, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers
    image.extend(0u32.to_le_bytes());
    image.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, at, address, size) in [
        (PT_NOTE, HEADERS, 0, note.len() as u64),
        (PT_LOAD, code, BASE, CODE.len() as u64),
    ] {
        image.extend([kind, 7].map(u32::to_le_bytes).concat());
        let words = [at, address, address, size, size, 4];
        image.extend(words.map(u64::to_le_bytes).concat());
    }
    image.extend(note);
    image.extend(CODE);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_where_the_headers_say() {
        let image = image();
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let load = 64 + 56;
        let at = usize::try_from(word(load + 8)).unwrap();
        assert_eq!(image[at..], CODE);
        assert_eq!(word(load + 32), CODE.len() as u64);
        assert_eq!((word(24), word(load + 24)), (BASE, BASE));
        let note = usize::try_from(word(64 + 8)).unwrap();
        assert_eq!(image[note + 12..note + 16], *b"Xen\0");
        assert_eq!(word(note + 16), BASE);
    }
}
