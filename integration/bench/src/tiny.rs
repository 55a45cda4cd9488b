//! Guests of a few bytes, which measure the time before a guest's first instruction. Each guest is
//! an ELF image with a PVH note (System V ABI, "Object Files"; Xen, docs/misc/pvh.pandoc), which
//! every VMM of the bench can load. The code means the same in 32-bit and in 64-bit mode, because
//! some VMMs enter it in the one and some in the other.

/// The address where the code is loaded and entered.
pub const BASE: u32 = 0x10_0000;
/// The byte that the guest writes to its serial port first.
pub const MARK: u8 = b'!';

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const HEADERS: usize = 64 + 2 * 56;

/// Code that writes [`MARK`] to the first serial port, and then reads the line status register as
/// every driver does. The read causes an exit: without it, a VMM may leave the write in KVM until
/// the guest's next exit (Documentation/virt/kvm/api.rst, KVM_REGISTER_COALESCED_MMIO).
const SAY: [u8; 12] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, MARK, // mov al, MARK
    0xee, // out dx, al
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, // in al, dx
];
const SPIN: [u8; 2] = [0xeb, 0xfe]; // jmp $
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd]; // hlt; jmp $-1

/// The guest's next action after it has written [`MARK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Loops forever.
    Spin,
    /// Halts forever with interrupts off, and so leaves the CPU to other threads.
    Halt,
    /// Writes this value to this port. The write resets the machine, and the guest writes [`MARK`]
    /// again.
    Reset(u16, u8),
}

/// A guest's code.
pub fn code(then: Then) -> Vec<u8> {
    let mut code = SAY.to_vec();
    if let Then::Reset(port, value) = then {
        let [low, high] = port.to_le_bytes();
        code.extend_from_slice(&[0x66, 0xba, low, high]); // mov dx, port
        code.extend_from_slice(&[0xb0, value]); // mov al, value
        code.push(0xee); // out dx, al
    }
    code.extend_from_slice(if then == Then::Halt { &HALT } else { &SPIN });
    code
}

/// A guest as an ELF image.
pub fn image(then: Then) -> Vec<u8> {
    let code = code(then);
    let mut note = Vec::new();
    // The note: the lengths of name and content, the type, the name, the content.
    for word in [4, 8, XEN_ELFNOTE_PHYS32_ENTRY] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&u64::from(BASE).to_le_bytes());

    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend_from_slice(&2u16.to_le_bytes()); // executable
    image.extend_from_slice(&62u16.to_le_bytes()); // x86-64
    image.extend_from_slice(&1u32.to_le_bytes()); // version
    for word in [u64::from(BASE), 64, 0] {
        image.extend_from_slice(&word.to_le_bytes()); // entry, program and section headers
    }
    image.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    header(&mut image, PT_NOTE, HEADERS, 0, note.len());
    header(&mut image, PT_LOAD, HEADERS + note.len(), BASE, code.len());
    image.extend_from_slice(&note);
    image.extend_from_slice(&code);
    image
}

fn header(image: &mut Vec<u8>, kind: u32, offset: usize, address: u32, size: usize) {
    image.extend_from_slice(&kind.to_le_bytes());
    image.extend_from_slice(&7u32.to_le_bytes());
    let (address, size) = (u64::from(address), size as u64);
    for word in [offset as u64, address, address, size, size, 4] {
        image.extend_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_segment_is_the_code() {
        let then = Then::Reset(0x64, 0xfe);
        let image = image(then);
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let second = 64 + 56;
        let (offset, size) = (word(second + 8) as usize, word(second + 32) as usize);
        assert_eq!(&image[offset..offset + size], code(then));
        assert_eq!(offset + size, image.len());
        assert_eq!(word(second + 24), u64::from(BASE));
    }
}
