//! What must never reach a device, and what a guest must never read: a list of its own, beside the
//! program's tables.
//!
//! The list is made from the specifications (PCI Express Base 6.0, 7.5 to 7.9; PCI Local Bus 3.0,
//! 6; the specifications of AGP, PCI-X, HyperTransport and CXL) and from what the kernel's VFIO
//! hides and lets through (drivers/vfio/pci/vfio_pci_config.c of Linux 6.12).

/// A register, or a part of one, that is the host's.
#[derive(Clone, Copy, Debug)]
pub struct Owned {
    /// Offset from the start of the capability.
    pub offset: u16,
    /// Length in bytes, at most four.
    pub len: u16,
    /// The bits that a guest's write must not change.
    pub kept: u32,
    /// The bits that a guest's write must never carry as one: they clear or start something.
    pub never_one: u32,
    /// The bits that a guest must read as zero.
    pub secret: u32,
}

/// A capability for the generator: its size, whether VFIO shows it, and what is the host's.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub id: u16,
    pub len: u16,
    /// Whether VFIO leaves the capability in its chain.
    pub shown: bool,
    pub owned: &'static [Owned],
}

const fn kept(offset: u16, len: u16, bits: u32) -> Owned {
    Owned {
        offset,
        len,
        kept: bits,
        never_one: 0,
        secret: 0,
    }
}

const fn never_one(offset: u16, len: u16, bits: u32) -> Owned {
    Owned {
        offset,
        len,
        kept: 0,
        never_one: bits,
        secret: 0,
    }
}

const fn secret(offset: u16, bits: u32) -> Owned {
    Owned {
        offset,
        len: 4,
        kept: bits,
        never_one: 0,
        secret: bits,
    }
}

/// The type 0 header. SERR# and parity error response enable error reports as Device Control does
/// (6.2.5). STATUS has write-1-to-clear bits 8 and 11 to 15.
pub const HEADER: &[Owned] = &[
    kept(0x00, 4, !0),
    kept(0x04, 2, 0x03e8),
    never_one(0x06, 2, 0xf900),
    kept(0x0f, 1, 0xff),
    secret(0x10, 0xffff_fff0),
    secret(0x14, 0xffff_fff0),
    secret(0x18, 0xffff_fff0),
    secret(0x1c, 0xffff_fff0),
    secret(0x20, 0xffff_fff0),
    secret(0x24, 0xffff_fff0),
    secret(0x30, 0xffff_f800),
    kept(0x34, 1, 0xff),
    kept(0x3c, 2, 0xffff),
];

/// Intel's integrated GPU: GGC has the size of stolen memory; BDSM (twice), BGSM and ASLS are
/// host addresses; a write of SWSMI, ASLE or SWSCI calls the host's firmware.
pub const IGD: &[Owned] = &[
    kept(0x50, 2, 0xffff),
    secret(0x5c, !0),
    secret(0x70, !0),
    secret(0xc0, !0),
    secret(0xc4, !0),
    kept(0xe0, 4, !0),
    kept(0xe4, 4, !0),
    kept(0xe8, 4, !0),
    secret(0xfc, !0),
];

const PM: &[Owned] = &[Owned {
    offset: 4,
    len: 2,
    kept: 0x0100,
    never_one: 0x8000,
    secret: 0,
}];
const MSI: &[Owned] = &[kept(2, 2, 0xffff), kept(4, 4, !0), kept(8, 2, 0xffff)];
const PCI_X: &[Owned] = &[
    kept(2, 2, 0x0001),
    never_one(4, 4, 0x200c_0000),
    kept(8, 4, !0),
];
const MSIX: &[Owned] = &[kept(2, 2, 0xffff), kept(4, 4, !0), kept(8, 4, !0)];
const PCIE: &[Owned] = &[
    kept(0x08, 2, 0x07ef),
    never_one(0x0a, 2, 0x004f),
    kept(0x10, 2, 0xffff),
    never_one(0x12, 2, 0xc000),
    kept(0x18, 2, 0xffff),
    never_one(0x1a, 2, 0x011f),
    kept(0x1c, 2, 0xffff),
    never_one(0x20, 4, 0x0001_0000),
    kept(0x28, 2, 0xfca0),
    kept(0x30, 2, 0xffff),
    never_one(0x32, 2, 0x0020),
];
/// The ID of the PCI Express capability.
pub const PCIE_ID: u16 = 0x10;
/// AtomicOp Requester Enable of Device Control 2, which is the guest's only behind a root port that
/// completes AtomicOps.
pub const ATOMIC_REQUESTER: Owned = Owned {
    offset: 0x28,
    len: 2,
    kept: 0x0040,
    never_one: 0,
    secret: 0x0040,
};
/// Speed and width of the link, in Link Capabilities and Link Status. A function on a root bus has
/// no link.
pub const LINK: [Owned; 2] = [secret(0x0c, 0x03ff), secret(0x10, 0x03ff_0000)];
const AER: &[Owned] = &[
    never_one(0x04, 4, !0),
    kept(0x08, 4, !0),
    kept(0x0c, 4, !0),
    never_one(0x10, 4, !0),
    kept(0x14, 4, !0),
    kept(0x18, 4, !0),
    kept(0x2c, 4, !0),
    never_one(0x30, 4, !0),
];
/// All registers after the header of an extended capability, at most ten.
const ALL: &[Owned] = &[
    kept(0x04, 4, !0),
    kept(0x08, 4, !0),
    kept(0x0c, 4, !0),
    kept(0x10, 4, !0),
    kept(0x14, 4, !0),
    kept(0x18, 4, !0),
    kept(0x1c, 4, !0),
    kept(0x20, 4, !0),
    kept(0x24, 4, !0),
    kept(0x28, 4, !0),
];
/// The same, where some registers are host addresses.
const ADDRESSES: &[Owned] = &[
    secret(0x04, !0),
    secret(0x08, !0),
    secret(0x0c, !0),
    secret(0x10, !0),
    secret(0x14, !0),
    secret(0x18, !0),
    secret(0x1c, !0),
    secret(0x20, !0),
    secret(0x24, !0),
    secret(0x28, !0),
];
/// The two bytes after the header of a standard capability, and the dwords after them.
const ALL_STANDARD: &[Owned] = &[
    kept(0x02, 2, 0xffff),
    kept(0x04, 4, !0),
    kept(0x08, 4, !0),
    kept(0x0c, 4, !0),
];

const fn known(id: u16, len: u16, shown: bool, owned: &'static [Owned]) -> Known {
    Known {
        id,
        len,
        shown,
        owned,
    }
}

/// Standard capabilities. VFIO shows those to which it gives a length.
pub const STANDARD: &[Known] = &[
    known(0x01, 8, true, PM),
    known(0x02, 12, true, ALL_STANDARD),
    known(0x03, 8, true, &[never_one(2, 2, 0x8000)]),
    known(0x04, 4, false, ALL_STANDARD),
    known(0x05, 24, true, MSI),
    known(0x06, 4, false, ALL_STANDARD),
    known(0x07, 24, true, PCI_X),
    known(0x08, 24, true, ALL_STANDARD),
    known(0x09, 16, true, &[]),
    known(0x0a, 4, false, ALL_STANDARD),
    known(0x0b, 4, false, ALL_STANDARD),
    known(0x0c, 8, false, ALL_STANDARD),
    known(0x0d, 8, false, ALL_STANDARD),
    known(0x0e, 12, false, ALL_STANDARD),
    known(0x0f, 16, false, ALL_STANDARD),
    known(PCIE_ID, 60, true, PCIE),
    known(0x11, 12, true, MSIX),
    known(0x12, 16, true, ALL_STANDARD),
    known(0x13, 8, true, &[kept(4, 1, 0xfe)]),
    known(
        0x14,
        16,
        false,
        &[secret(4, !0), secret(8, !0), secret(12, !0)],
    ),
    known(0x15, 36, false, ALL_STANDARD),
    // Nobody has defined these.
    known(0x16, 16, false, ALL_STANDARD),
    known(0x7f, 16, false, ALL_STANDARD),
];

/// Extended capabilities. Those that VFIO shows have a length in its table.
pub const EXTENDED: &[Known] = &[
    known(0x01, 0x48, true, AER),
    known(0x02, 0x1c, true, ALL),
    known(0x03, 12, true, &[kept(4, 4, !0), kept(8, 4, !0)]),
    known(0x04, 16, true, &[kept(8, 4, !0), kept(12, 4, !0)]),
    known(0x05, 32, false, ADDRESSES),
    known(0x06, 12, false, ALL),
    known(0x07, 8, false, ALL),
    known(0x08, 0x1c, true, ALL),
    known(0x09, 0x1c, true, ALL),
    known(0x0a, 20, false, ALL),
    // Vendor-specific: drivers of the guest's need it, and VFIO passes it.
    known(0x0b, 20, true, &[]),
    known(0x0c, 8, false, ALL),
    known(0x0d, 8, true, ALL),
    known(0x0e, 8, true, ALL),
    known(0x0f, 8, true, ALL),
    known(0x10, 0x40, true, ADDRESSES),
    known(0x11, 32, false, ALL),
    known(0x12, 40, true, ADDRESSES),
    known(0x13, 16, true, ALL),
    known(0x14, 8, false, ALL),
    known(0x15, 12, true, ALL),
    known(0x16, 24, true, ALL),
    known(0x17, 16, true, ALL),
    known(0x18, 8, true, ALL),
    known(0x19, 32, false, ALL),
    known(0x1a, 16, false, ALL),
    known(0x1b, 8, false, ALL),
    known(0x1c, 8, false, ALL),
    known(0x1d, 16, false, ALL),
    known(0x1e, 20, false, ALL),
    known(0x1f, 12, false, ALL),
    known(0x20, 32, false, ALL),
    known(0x21, 16, false, ALL),
    known(0x22, 12, false, ALL),
    // Designated vendor-specific of CXL: addresses of the host's memory.
    known(0x23, 40, true, CXL),
    known(0x24, 12, false, ALL),
    known(0x25, 12, false, ALL),
    known(0x26, 40, false, ALL),
    known(0x27, 40, false, ALL),
    known(0x28, 20, false, ALL),
    known(0x29, 16, false, ALL),
    known(0x2a, 40, false, ALL),
    known(0x2b, 20, false, ALL),
    known(0x2c, 20, false, ALL),
    known(0x2d, 28, false, ALL),
    known(0x2e, 24, false, ALL),
    known(0x2f, 16, false, ALL),
    known(0x30, 40, false, ALL),
    known(0x31, 40, false, ALL),
    known(0x32, 40, false, ALL),
    known(0x33, 40, false, ALL),
    known(0x34, 40, false, ALL),
    // Nobody has defined this.
    known(0xee, 20, false, ALL),
];

/// The registers of a DVSEC of CXL after its two headers.
const CXL: &[Owned] = &[
    secret(0x0c, !0),
    secret(0x10, !0),
    secret(0x14, !0),
    secret(0x18, !0),
    secret(0x1c, !0),
    secret(0x20, !0),
    secret(0x24, !0),
];
