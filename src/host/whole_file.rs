//! Writes a file as a whole.

use std::fs::{self, FileType, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes a file so that a reader sees the old text or the new one, also after a power failure. The
/// text is first in a file of the same name with `.part` at its end, which udev and the container
/// engines do not read.
///
/// What is there and is no regular file, such as /dev/stdout, is written to, as a shell's `>` does:
/// a file instead of a device node would take the device from the whole host.
///
/// # Errors
/// The errno; or the path is that of a block device, a socket or a folder.
pub fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return write_into(path, text);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    // What a killed command has left; the open reports any other trouble.
    let _ = fs::remove_file(&part);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(&part)?;
    file.write_all(text.as_bytes())?;
    // The umask has cut the mode of the open. Other users read and execute these files.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// Writes to a character device or a pipe, or to what a link leads to.
fn write_into(path: &Path, text: &str) -> io::Result<()> {
    // With links followed. A link may lead to a file that is yet to be made.
    let there = fs::metadata(path).map(|found| found.file_type());
    let takes_text = |kind: FileType| kind.is_file() || kind.is_char_device() || kind.is_fifo();
    if there.is_ok_and(|kind| !takes_text(kind)) {
        let why = "neither a file, nor a pipe, nor a character device";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::thread;

    use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    #[test]
    fn the_mode_is_not_cut() {
        let dir = TempDir::new().unwrap();
        let path = dir.as_path().join("folder/script");
        // The usual umask, 022, cuts this mode, and nothing of another test changes.
        for text in ["one", "two"] {
            write(&path, text, 0o777).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o777);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_regular_file_stays_what_it_is() {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.as_path().join(name);
        symlink("/dev/null", at("null")).unwrap();
        write(&at("null"), "text", 0o644).unwrap();
        assert!(fs::symlink_metadata(at("null")).unwrap().is_symlink());

        fs::write(at("file"), "an older and longer text").unwrap();
        for to in ["file", "new"] {
            let link = at(&format!("to {to}"));
            symlink(to, &link).unwrap();
            write(&link, "text", 0o644).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(at(to)).unwrap(), "text");
        }

        let pipe = at("pipe");
        mknodat(CWD, &pipe, Kind::Fifo, Mode::from(0o600), 0).unwrap();
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        write(&pipe, "text", 0o644).unwrap();
        assert_eq!(reader.join().unwrap(), "text");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());

        let error = write(dir.as_path(), "text", 0o644).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
