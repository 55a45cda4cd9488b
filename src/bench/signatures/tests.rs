//! Images whose bytes are known, and images that the tools of this machine make.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::position::Position;
use super::table::ALL;
use super::{BLOCK, Signature, find};

/// A disk of zeros, with some bytes at some offsets.
fn on_disk(size: u64, parts: &[(u64, &[u8])]) -> Vec<Signature> {
    find(size, &mut |start| {
        let mut block = vec![0; BLOCK.min(size - start) as usize];
        for (at, bytes) in parts {
            for (at, byte) in (*at..).zip(*bytes) {
                if let Some(offset) = at.checked_sub(start)
                    && let Some(position) = block.get_mut(offset as usize)
                {
                    *position = *byte;
                }
            }
        }
        Ok(block)
    })
    .unwrap()
}

#[test]
fn each_signature_is_found_at_each_of_its_positions() {
    let size = (257 << 30) + 3 * 512;
    let mut looked = 0;
    for (what, positions, values) in ALL.into_iter().flatten() {
        for at in positions.iter().map(|position| position.on(size).unwrap()) {
            for value in *values {
                let found = on_disk(size, &[(at, value)]);
                let is_it = |found: &Signature| found.what == *what && found.at == at;
                assert!(found.iter().any(is_it), "{what} at {at}: {found:?}");
                looked += 1;
            }
        }
    }
    assert!(looked > 150, "{looked}");
}

/// Each format's offsets on a disk of 100 MiB, computed by hand.
#[test]
fn formats_are_known_by_their_bytes() {
    let size = 100 << 20;
    let cases: &[(&str, u64, &[u8])] = &[
        ("GPT", 512, b"EFI PART\0\0\x01\0"),
        ("GPT", 4096, b"EFI PART\0\0\x01\0"),
        ("GPT", 104_857_088, b"EFI PART"),
        ("MBR", 510, b"\x55\xaa"),
        ("ext4", 0x438, b"\x53\xef"),
        ("XFS", 0, b"XFSB\0\0\x10\0"),
        ("Btrfs", 0x1_0040, b"_BHRfS_M"),
        ("Btrfs", 0x400_0040, b"_BHRfS_M"),
        ("FAT", 0x36, b"FAT16   "),
        ("FAT", 0x52, b"FAT32   "),
        ("exFAT", 3, b"EXFAT   "),
        ("NTFS", 3, b"NTFS    "),
        ("F2FS", 0x400, b"\x10\x20\xf5\xf2"),
        ("NILFS2", 0x406, b"\x34\x34"),
        ("NILFS2", 104_853_510, b"\x34\x34"),
        ("LVM", 512, b"LABELONE\x01\0\0\0"),
        ("Linux RAID", 0, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
        ("Linux RAID", 4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
        ("Linux RAID", 104_849_408, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
        ("Linux RAID", 104_792_064, b"\xfc\x4e\x2b\xa9\0\0\0\0"),
        ("Intel RAID", 104_856_576, b"Intel Raid ISM Cfg Sig. 1.3"),
        ("DDF", 104_857_088, b"\xde\x11\xde\x11"),
        ("LUKS", 0, b"LUKS\xba\xbe\0\x02"),
        ("LUKS", 0x4000, b"SKUL\xba\xbe\0\x02"),
        ("ZFS", 131_072, b"\x0c\xb1\xba\0\0\0\0\0"),
        ("ZFS", 394_240, b"\x0c\xb1\xba\0\0\0\0\0"),
        ("ZFS", 104_464_384, b"\0\0\0\0\0\xba\xb1\x0c"),
        ("ZFS", 104_856_576, b"\x0c\xb1\xba\0\0\0\0\0"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("swap", 65_526, b"SWAPSPACE2"),
        ("BitLocker", 3, b"-FVE-FS-"),
        ("SPDK RAID", 0, b"SPDKRAID\x01\0\0\0"),
        ("blobstore of SPDK", 0, b"SPDKBLOB\x03\0\0\0"),
        ("write cache", 0, &0x2348_9321_u32.to_le_bytes()),
        ("thin pool", 32, &27_022_010_u64.to_le_bytes()),
        ("device mapper's cache", 32, &0o6_142_003_u64.to_le_bytes()),
        ("bcache", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ];
    for (name, at, bytes) in cases {
        let found = on_disk(size, &[(*at, bytes)]);
        let is_it = |found: &Signature| found.what.contains(name) && found.at == *at;
        assert!(found.iter().any(is_it), "{name} at {at}: {found:?}");
        // One byte less is no signature: nothing else makes it found.
        let short = on_disk(size, &[(*at, &bytes[..1])]);
        assert!(short.is_empty(), "{name} at {at}: {short:?}");
    }
}

#[test]
fn the_end_of_a_disk_is_rounded_down() {
    // Three sectors more do not move the superblocks of a Linux RAID; half a label does not move
    // those of ZFS.
    let size = (100 << 20) + 3 * 512;
    assert!(!on_disk(size, &[(104_849_408, b"\xfc\x4e\x2b\xa9")]).is_empty());
    let size = (100 << 20) + (128 << 10);
    assert!(!on_disk(size, &[(104_464_384, b"\x0c\xb1\xba\0\0\0\0\0")]).is_empty());
    assert_eq!(Position::End(512).on(511), None);
    let area = Position::Area {
        unit: 4096,
        back: 8192,
        at: 6,
    };
    assert_eq!((area.on(8191), area.on(12_287)), (None, Some(6)));
}

#[test]
fn an_empty_disk_of_any_size_holds_nothing() {
    for size in [0, 512, 4096, 4608, 1 << 20, (1 << 40) + 512] {
        assert!(on_disk(size, &[]).is_empty(), "{size}");
    }
    // A signature that the disk's end cuts off is none.
    assert!(on_disk(512 + 7, &[(512, b"EFI PART")]).is_empty());
}

/// A position that cannot be read is no empty position.
#[test]
fn a_disk_that_cannot_be_read_is_an_error() {
    let failed = find(1 << 20, &mut |at| match at {
        0 => Ok(vec![0; 4096]),
        _ => Err(crate::error::Error::new("unreadable")),
    });
    assert!(failed.is_err());
}

/// What the tools of this machine write is found. The first two are on every Linux; the others
/// where they are installed.
#[test]
fn what_real_tools_write_is_found() {
    let tools: &[(&str, &[&str], &str)] = &[
        ("mke2fs", &["-q", "-F", "-t", "ext4"], "ext4"),
        ("mkswap", &[], "swap"),
        ("mkfs.minix", &[], "Minix"),
        ("mkfs.minix", &["-3"], "Minix"),
        ("mkfs.xfs", &["-q", "-f"], "XFS"),
        ("mkfs.btrfs", &["-q", "-f"], "Btrfs"),
        ("mkfs.vfat", &["-F", "16"], "FAT"),
        ("mkfs.vfat", &["-F", "32"], "FAT"),
        ("mkfs.exfat", &[], "exFAT"),
        ("mkntfs", &["-q", "-F", "-f"], "NTFS"),
        ("mkfs.f2fs", &["-q", "-f"], "F2FS"),
        ("mkfs.nilfs2", &["-q", "-f"], "NILFS2"),
        ("mkfs.jfs", &["-q"], "JFS"),
        ("mkreiserfs", &["-q", "-ff"], "ReiserFS"),
        ("mkfs.udf", &[], "UDF"),
        ("mkfs.gfs2", &["-q", "-O", "-p", "lock_nolock"], "GFS2"),
        ("mkfs.bcachefs", &["-q", "-f"], "bcachefs"),
        ("make-bcache", &["-B"], "bcache"),
        ("sgdisk", &["-o"], "GPT"),
        ("cryptsetup", &LUKS, "LUKS"),
    ];
    let image = std::env::temp_dir().join(format!("bench-signatures-{}", std::process::id()));
    let mut used = Vec::new();
    for (tool, arguments, name) in tools {
        let Some(program) = installed(tool) else {
            continue;
        };
        fs::write(&image, b"").unwrap();
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.set_len(512 << 20).unwrap();
        let output = Command::new(program)
            .args(*arguments)
            .arg(&image)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // A tool that lacks its libraries writes nothing.
        if !output.status.success() {
            continue;
        }
        let found = in_file(&image);
        let is_it = |found: &Signature| found.what.contains(name);
        assert!(found.iter().any(is_it), "{tool}: {found:?}");
        used.push(*tool);
    }
    fs::remove_file(&image).unwrap();
    assert!(used.starts_with(&["mke2fs", "mkswap"]), "{used:?}");
}

/// A volume whose key takes no time to make.
const LUKS: [&str; 11] = [
    "-q",
    "luksFormat",
    "--type",
    "luks2",
    "--key-file",
    "/dev/zero",
    "--keyfile-size",
    "32",
    "--pbkdf",
    "pbkdf2",
    "--pbkdf-force-iterations=1000",
];

fn in_file(path: &Path) -> Vec<Signature> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    find(size, &mut |at| {
        let mut block = vec![0; BLOCK.min(size - at) as usize];
        file.read_exact_at(&mut block, at).unwrap();
        Ok(block)
    })
    .unwrap()
}

fn installed(tool: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(tool))
        .find(|program| program.is_file())
}
