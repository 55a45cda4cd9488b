//! The signatures. Offsets and values are those of each format's own specification or of its
//! driver's headers in Linux (include/uapi/linux/magic.h, fs/, drivers/md/, block/partitions/).

use super::position::Position::{self, Area, End, Start};

/// A signature: what it stands for, its positions, and its bytes.
pub(super) type Row = (&'static str, &'static [Position], &'static [&'static [u8]]);

/// ZFS writes four labels of 256 KiB; the last two are before the disk's end, rounded down to such
/// a label.
pub(super) const ZFS_LABEL: u64 = 256 << 10;

/// The second half of a label is a ring of uberblocks, each of which is at a multiple of 1 KiB.
pub(super) const ZFS_RING: u64 = 128 << 10;

/// The distance of two uberblocks at least.
pub(super) const ZFS_SLOT: u64 = 1 << 10;

/// The number 0x00bab10c in 64 bits, in either order.
pub(super) const ZFS_UBERBLOCK: [&[u8]; 2] = [
    &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0],
    &[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c],
];

pub(super) const PARTITION_TABLES: &[Row] = &[
    (
        "a GPT partition table",
        &[Start(512), Start(4096), End(512), End(4096)],
        &[b"EFI PART"],
    ),
    (
        "an MBR partition table or a boot sector",
        &[Start(510)],
        &[&[0x55, 0xaa]],
    ),
    (
        "an Apple partition map",
        &[Start(512), Start(2048), Start(4096)],
        &[b"PM\0\0"],
    ),
    (
        "an Apple driver descriptor",
        &[Start(0)],
        &[b"ER\x02\0", b"ER\x10\0"],
    ),
    ("a Sun disk label", &[Start(508)], &[&[0xda, 0xbe]]),
    (
        "an SGI volume header",
        &[Start(0)],
        &[&[0x0b, 0xe5, 0xa9, 0x41]],
    ),
    (
        "a BSD disk label",
        &[Start(0), Start(64), Start(128), Start(512)],
        &[&[0x57, 0x45, 0x56, 0x82], &[0x82, 0x56, 0x45, 0x57]],
    ),
    ("an AIX volume", &[Start(0)], &[&[0xc9, 0xc2, 0xd4, 0xc1]]),
    (
        "an Amiga partition table",
        &[
            Start(0),
            Start(512),
            Start(1024),
            Start(1536),
            Start(2048),
            Start(2560),
            Start(3072),
            Start(3584),
            Start(4096),
            Start(4608),
            Start(5120),
            Start(5632),
            Start(6144),
            Start(6656),
            Start(7168),
            Start(7680),
        ],
        &[b"RDSK"],
    ),
    (
        "a Windows dynamic disk",
        &[Start(3072), End(1 << 20), End(512)],
        &[b"PRIVHEAD"],
    ),
];

pub(super) const FILE_SYSTEMS: &[Row] = &[
    (
        "an ext2, ext3 or ext4 file system",
        &[Start(1080)],
        &[&[0x53, 0xef]],
    ),
    ("an XFS file system", &[Start(0)], &[b"XFSB"]),
    (
        "a Btrfs file system",
        &[
            Start((64 << 10) + 64),
            Start((64 << 20) + 64),
            Start((256 << 30) + 64),
        ],
        &[b"_BHRfS_M"],
    ),
    ("a FAT file system", &[Start(54), Start(82)], &[b"FAT"]),
    ("an exFAT file system", &[Start(3)], &[b"EXFAT   "]),
    ("an NTFS file system", &[Start(3), End(509)], &[b"NTFS    "]),
    ("a ReFS file system", &[Start(3)], &[b"ReFS\0\0\0\0"]),
    (
        "an HPFS file system",
        &[Start(8192)],
        &[&[0x49, 0xe8, 0x95, 0xf9]],
    ),
    (
        "an HFS or HFS+ file system",
        &[Start(1024), End(1024)],
        &[b"BD", b"H+", b"HX"],
    ),
    ("an APFS container", &[Start(32)], &[b"NXSB"]),
    (
        "a JFS file system",
        &[Start(32 << 10), Start(60 << 10)],
        &[b"JFS1"],
    ),
    (
        "a ReiserFS file system",
        &[
            Start((8 << 10) + 52),
            Start((64 << 10) + 52),
            Start(64 << 10),
        ],
        &[b"ReIsEr"],
    ),
    (
        "an F2FS file system",
        &[Start(1024), Start(5120)],
        &[&[0x10, 0x20, 0xf5, 0xf2]],
    ),
    (
        "a NILFS2 file system",
        &[
            Start(1030),
            Area {
                unit: 4096,
                back: 4096,
                at: 6,
            },
        ],
        &[&[0x34, 0x34]],
    ),
    (
        "a UFS file system",
        &[
            Start(1372),
            Start((8 << 10) + 1372),
            Start((64 << 10) + 1372),
            Start((256 << 10) + 1372),
        ],
        &[
            &[0x54, 0x19, 0x01, 0x00],
            &[0x00, 0x01, 0x19, 0x54],
            &[0x19, 0x01, 0x54, 0x19],
            &[0x19, 0x54, 0x01, 0x19],
        ],
    ),
    (
        "a GFS2 file system",
        &[Start(64 << 10)],
        &[&[0x01, 0x16, 0x19, 0x70]],
    ),
    (
        "an OCFS2 file system",
        &[Start(1024), Start(2048), Start(4096), Start(8192)],
        &[b"OCFSV2"],
    ),
    ("a SquashFS file system", &[Start(0)], &[b"hsqs", b"sqsh"]),
    (
        "an EROFS file system",
        &[Start(1024)],
        &[&[0xe2, 0xe1, 0xf5, 0xe0]],
    ),
    (
        "a cramfs file system",
        &[Start(0), Start(512)],
        &[&[0x45, 0x3d, 0xcd, 0x28], &[0x28, 0xcd, 0x3d, 0x45]],
    ),
    ("a romfs file system", &[Start(0)], &[b"-rom1fs-"]),
    (
        "a Minix file system",
        &[Start(1040), Start(1048)],
        &[
            &[0x7f, 0x13],
            &[0x8f, 0x13],
            &[0x68, 0x24],
            &[0x78, 0x24],
            &[0x5a, 0x4d],
        ],
    ),
    (
        "an ISO 9660 file system",
        &[Start(32769), Start(34817)],
        &[b"CD001"],
    ),
    (
        "a UDF file system",
        &[Start(32769), Start(34817), Start(36865), Start(38913)],
        &[b"BEA01", b"NSR02", b"NSR03"],
    ),
    (
        "a BeFS file system",
        &[Start(32), Start(544)],
        &[b"1SFB", b"BFS1"],
    ),
    (
        "a VxFS file system",
        &[Start(1024), Start(8192)],
        &[&[0xf5, 0xfc, 0x01, 0xa5], &[0xa5, 0x01, 0xfc, 0xf5]],
    ),
    (
        "a bcachefs file system or a bcache",
        &[Start(4120)],
        &[&[0xc6, 0x85, 0x73, 0xf6]],
    ),
    (
        "a HAMMER file system",
        &[Start(0)],
        &[b"\x11\x20\x17\x05\x32MAH", b"10R\xc5MMA\xc8"],
    ),
    (
        "a QNX6 file system",
        &[Start(8192)],
        &[&[0x22, 0x11, 0x19, 0x68]],
    ),
    ("a zonefs file system", &[Start(0)], &[b"SFOZ"]),
    (
        "a VMFS file system",
        &[Start(1 << 20)],
        &[&[0x0d, 0xd0, 0x01, 0xc0]],
    ),
    (
        "a VMFS file system",
        &[Start(2 << 20)],
        &[&[0x5e, 0xf1, 0xab, 0x2f]],
    ),
];

pub(super) const VOLUMES: &[Row] = &[
    (
        "an LVM physical volume",
        &[Start(0), Start(512), Start(1024), Start(1536)],
        &[b"LABELONE"],
    ),
    (
        "an LVM1 physical volume",
        &[Start(0)],
        &[b"HM\x01\0", b"HM\x02\0"],
    ),
    (
        "a member of a Linux RAID",
        &[
            Start(0),
            Start(4096),
            Area {
                unit: 4096,
                back: 8192,
                at: 0,
            },
            Area {
                unit: 64 << 10,
                back: 64 << 10,
                at: 0,
            },
        ],
        &[&[0xfc, 0x4e, 0x2b, 0xa9], &[0xa9, 0x2b, 0x4e, 0xfc]],
    ),
    (
        "a member of an Intel RAID",
        &[End(1024), End(8192)],
        &[b"Intel Raid ISM Cfg Sig. "],
    ),
    (
        "a member of a RAID in the DDF format",
        &[End(512), End(4096), End(257 * 512)],
        &[&[0xde, 0x11, 0xde, 0x11]],
    ),
    ("a member of an NVIDIA RAID", &[End(1024)], &[b"NVIDIA"]),
    ("a member of an LSI RAID", &[End(512)], &[b"$XIDE$"]),
    ("a member of a JMicron RAID", &[End(512)], &[b"JM"]),
    (
        "a member of a Promise RAID",
        &[
            End(63 * 512),
            End(255 * 512),
            End(256 * 512),
            End(16 * 512),
            End(399 * 512),
            End(591 * 512),
            End(675 * 512),
            End(735 * 512),
            End(911 * 512),
            End(951 * 512),
            End(974 * 512),
            End(991 * 512),
            End(3087 * 512),
        ],
        &[b"Promise Technology, Inc."],
    ),
    (
        "a member of a HighPoint RAID",
        &[Start(9 * 512 + 32), End(11 * 512 - 32)],
        &[
            &[0xf0, 0x16, 0x78, 0x5a],
            &[0xf3, 0x16, 0x78, 0x5a],
            &[0xfd, 0x16, 0x78, 0x5a],
        ],
    ),
    (
        "a DRBD volume",
        &[Area {
            unit: 4096,
            back: 4096,
            at: 60,
        }],
        &[&[0x83, 0x74, 0x02]],
    ),
    (
        "a Stratis pool",
        &[Start(516), Start(4612)],
        &[b"!Stra0tis\x86\xff\x02\x5e\x41rh"],
    ),
    ("a VDO volume", &[Start(0)], &[b"dmvdo001"]),
    ("a Ceph volume", &[Start(0)], &[b"bluestore block device"]),
    ("an Oracle ASM disk", &[Start(32)], &[b"ORCLDISK"]),
    ("a member of an SPDK RAID", &[Start(0)], &[b"SPDKRAID"]),
    ("a blobstore of SPDK", &[Start(0)], &[b"SPDKBLOB"]),
    ("a snapshot of the device mapper", &[Start(0)], &[b"SnAp"]),
    (
        "a write cache of the device mapper",
        &[Start(0)],
        &[&[0x21, 0x93, 0x48, 0x23]],
    ),
    // After the checksum, the flags, the block's number and the UUID; the kernel's source has the
    // cache's number in octal digits.
    (
        "the metadata of the device mapper's thin pool",
        &[Start(32)],
        &[&[0xba, 0x52, 0x9c, 0x01, 0, 0, 0, 0]],
    ),
    (
        "the metadata of the device mapper's cache",
        &[Start(32)],
        &[&[0x03, 0xc4, 0x18, 0, 0, 0, 0, 0]],
    ),
    ("a disk of dm-verity", &[Start(0)], &[b"verity\0\0"]),
    ("a disk of dm-integrity", &[Start(0)], &[b"integrt\0"]),
    ("a UBI volume", &[Start(0)], &[b"UBI#"]),
];

pub(super) const ENCRYPTION: &[Row] = &[
    ("a LUKS volume", &[Start(0)], &[b"LUKS\xba\xbe"]),
    (
        "the second header of a LUKS volume",
        &[
            Start(0x4000),
            Start(0x8000),
            Start(0x1_0000),
            Start(0x2_0000),
            Start(0x4_0000),
            Start(0x8_0000),
            Start(0x10_0000),
            Start(0x20_0000),
            Start(0x40_0000),
        ],
        &[b"SKUL\xba\xbe"],
    ),
    ("a BitLocker volume", &[Start(3)], &[b"-FVE-FS-"]),
    ("a FileVault volume", &[Start(88)], &[b"CS"]),
];

/// The signature ends where the first page ends, which has 4 to 64 KiB.
pub(super) const SWAP: &[Row] = &[(
    "a swap area",
    &[
        Start((4 << 10) - 10),
        Start((8 << 10) - 10),
        Start((16 << 10) - 10),
        Start((32 << 10) - 10),
        Start((64 << 10) - 10),
    ],
    &[
        b"SWAPSPACE2",
        b"SWAP-SPACE",
        b"S1SUSPEND",
        b"S2SUSPEND",
        b"ULSUSPEND",
        b"LINHIB0001",
        // TuxOnIce.
        b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c",
    ],
)];

/// All tables.
pub(super) const ALL: [&[Row]; 5] = [PARTITION_TABLES, FILE_SYSTEMS, VOLUMES, ENCRYPTION, SWAP];
