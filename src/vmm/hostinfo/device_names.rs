//! The user's names for devices, in /etc/mini-vmm/devices.toml.
//!
//! ```toml
//! gpu0 = "0000:01:00.0"
//! disk = { address = "0000:02:00.0", id = "1b36:0010" }
//! ```
//!
//! With `id`, the name is refused for another kind of device at that address: an address is a
//! matter of slots and of what is in other slots. The file is read only for a text that is no
//! address.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::hostinfo::name::{HostName, parse_address};
use crate::hostinfo::sysfs::Sysfs;

/// The file of this host.
pub const FILE: &str = "/etc/mini-vmm/devices.toml";

/// Names below this likeness (Jaro's, 0 to 1) are not offered for an unknown one.
const LIKE: f64 = 0.7;

/// A device that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its address or UUID.
    pub device: HostName,
    /// The vendor's and the device's number, if the file has them.
    pub id: Option<(u16, u16)>,
}

/// The reason why a name is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The file cannot be read.
    #[error("cannot read the names of devices in {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: String,
    },
    /// The file's text is wrong.
    #[error("{}: line {line}: {mistake}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        mistake: String,
    },
    /// The file has no such name.
    #[error("`{name}` is no address, and no name in {}", path.display())]
    Unknown {
        /// What the user wrote.
        name: String,
        /// The file.
        path: PathBuf,
        /// The name in the file with the most similar letters.
        nearest: Option<String>,
    },
    /// Another device is at the address.
    #[error("`{name}` is a device {wanted} at {address}, but there is a device {found}")]
    Other {
        /// The name.
        name: String,
        /// The device of the file.
        wanted: String,
        /// The address.
        address: String,
        /// The device that is there.
        found: String,
        /// The file.
        path: PathBuf,
    },
}

impl NameError {
    /// The remedy to type.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { path, .. } => format!("see `ls -l {}`", path.display()),
            Self::Text { .. } => "a line is NAME = \"0000:01:00.0\" or \
                 NAME = { address = \"0000:01:00.0\", id = \"1b36:0010\" }"
                .into(),
            Self::Unknown {
                nearest: Some(nearest),
                ..
            } => format!("did you mean `{nearest}`?"),
            Self::Unknown { .. } => {
                "give an address as `mini-vmm host list` prints it, for example 0000:01:00.0".into()
            }
            Self::Other { path, .. } => format!(
                "find the device with `mini-vmm host list`, and correct its line in {}",
                path.display()
            ),
        }
    }
}

/// The text that names a device without a name: the text itself, or the address of this name.
///
/// # Errors
/// The text has the form of a name, and the file does not have it, or another device is there.
pub fn resolve(file: &Path, sysfs: &Sysfs, text: &str) -> Result<String, NameError> {
    if parse_address(text).is_ok() || !is_name(text) {
        return Ok(text.into());
    }
    let Some(names) = read(file)? else {
        // The text is refused as an address, with the hint for that.
        return Ok(text.into());
    };
    let Some(named) = names.get(text) else {
        let likeness = |name: &String| (strsim::jaro(text, name), name.clone());
        let nearest = names.keys().map(likeness);
        let nearest = nearest.max_by(|a, b| a.0.total_cmp(&b.0));
        return Err(NameError::Unknown {
            name: text.into(),
            path: file.into(),
            nearest: nearest
                .filter(|(like, _)| *like > LIKE)
                .map(|(_, name)| name),
        });
    };
    check(file, sysfs, text, named)?;
    Ok(named.device.to_string())
}

/// Compares what is at the address with the numbers of the file. An absent device is reported as
/// such later.
fn check(file: &Path, sysfs: &Sysfs, name: &str, named: &Named) -> Result<(), NameError> {
    let (HostName::Pci(bdf), Some(wanted)) = (named.device, named.id) else {
        return Ok(());
    };
    let number = |attribute: &str| {
        let text = fs::read_to_string(sysfs.device_path(bdf).join(attribute)).ok()?;
        u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let (Some(vendor), Some(device)) = (number("vendor"), number("device")) else {
        return Ok(());
    };
    if (vendor, device) == wanted {
        return Ok(());
    }
    let words = |(vendor, device): (u16, u16)| format!("{vendor:04x}:{device:04x}");
    Err(NameError::Other {
        name: name.into(),
        wanted: words(wanted),
        address: bdf.to_string(),
        found: words((vendor, device)),
        path: file.into(),
    })
}

/// All names; `None` if there is no file.
///
/// # Errors
/// The file cannot be read, or has a mistake.
pub fn read(file: &Path) -> Result<Option<BTreeMap<String, Named>>, NameError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            return Err(NameError::Read {
                path: file.into(),
                cause: e.to_string(),
            });
        }
    };
    parse(&text)
        .map(Some)
        .map_err(|(at, mistake)| NameError::Text {
            path: file.into(),
            line: 1 + text.bytes().take(at).filter(|b| *b == b'\n').count(),
            mistake,
        })
}

/// Whether a text can be a name: letters, digits, `-` and `_`, with a letter first.
fn is_name(text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(part)
}

/// A mistake, with the byte of the text where it is.
type At<T> = Result<T, (usize, String)>;

fn parse(text: &str) -> At<BTreeMap<String, Named>> {
    let table = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        (at, format!("this is not TOML: {}", e.message()))
    })?;
    let mut names = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().to_string();
        if !is_name(&name) {
            let why = "is no name: a name has letters, digits, - and _, and begins with a letter";
            return Err((key.span().start, format!("`{name}` {why}")));
        }
        let at = value.span().start;
        let named = match value.get_ref() {
            DeValue::String(address) => device(address).map(|device| Named { device, id: None }),
            DeValue::Table(table) => of_table(table),
            _ => Err("the value is neither a text nor a table".into()),
        };
        names.insert(name, named.map_err(|mistake| (at, mistake))?);
    }
    Ok(names)
}

fn of_table(table: &DeTable<'_>) -> Result<Named, String> {
    let known = |key: &str| ["address", "id"].contains(&key);
    if let Some(key) = table.keys().find(|key| !known(key.get_ref())) {
        return Err(format!("`{}` is neither `address` nor `id`", key.get_ref()));
    }
    let text = |key: &str| match table.get(key).map(|value| value.get_ref()) {
        None => Ok(None),
        Some(DeValue::String(text)) => Ok(Some(text.to_string())),
        Some(_) => Err(format!("the value of `{key}` is no text")),
    };
    let address = text("address")?.ok_or("there is no `address`")?;
    let id = text("id")?.map(|id| numbers(&id).ok_or(format!("`{id}` is no id such as 1b36:0010")));
    Ok(Named {
        device: device(&address)?,
        id: id.transpose()?,
    })
}

fn device(address: &str) -> Result<HostName, String> {
    let name = address.parse();
    name.map_err(|_| format!("`{address}` is neither an address nor a UUID"))
}

/// Two numbers of four hexadecimal digits.
fn numbers(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u16::from_str_radix(text, 16).ok()).flatten()
    };
    let (vendor, device) = text.split_once(':')?;
    Some((number(vendor)?, number(device)?))
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempdir::TempDir;

    use super::*;

    const TEXT: &str = "\
# The cards of this host.
gpu0 = \"01:00.0\"
disk = { address = \"0000:02:00.0\", id = \"1b36:0010\" }
sound_1 = { address = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001' }
gone = { address = '0000:09:00.0', id = '1b36:0010' }
";

    struct Host {
        dir: TempDir,
    }

    impl Host {
        fn new(text: &str) -> Self {
            let dir = TempDir::new().unwrap();
            let device = dir.as_path().join("sys/bus/pci/devices/0000:02:00.0");
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), "0x1b36\n").unwrap();
            fs::write(device.join("device"), "0x0010\n").unwrap();
            fs::write(dir.as_path().join("devices.toml"), text).unwrap();
            Self { dir }
        }

        fn resolve(&self, text: &str) -> Result<String, NameError> {
            let sysfs = Sysfs::at(self.dir.as_path().join("sys"));
            resolve(&self.dir.as_path().join("devices.toml"), &sysfs, text)
        }
    }

    #[test]
    fn names_stand_for_addresses() {
        let host = Host::new(TEXT);
        for (text, address) in [
            ("gpu0", "0000:01:00.0"),
            ("disk", "0000:02:00.0"),
            ("sound_1", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
            // What is not there is not compared.
            ("gone", "0000:09:00.0"),
            // No names, so the file is not asked.
            ("03:00.0", "03:00.0"),
            ("/sys/devices/x", "/sys/devices/x"),
            ("fd=7", "fd=7"),
            ("", ""),
            ("0gpu", "0gpu"),
        ] {
            assert_eq!(host.resolve(text).unwrap(), address, "{text}");
        }
    }

    #[test]
    fn another_device_at_the_address_is_refused() {
        let host = Host::new(TEXT);
        let device = host
            .dir
            .as_path()
            .join("sys/bus/pci/devices/0000:02:00.0/device");
        fs::write(device, "0x0011\n").unwrap();
        let error = host.resolve("disk").unwrap_err();
        let said = error.to_string();
        let expected = "`disk` is a device 1b36:0010 at 0000:02:00.0, but there is a device \
                        1b36:0011";
        assert_eq!(said, expected);
        assert!(error.hint().contains("devices.toml"), "{}", error.hint());
    }

    #[test]
    fn unknown_names_and_no_file() {
        let host = Host::new(TEXT);
        let error = host.resolve("gpu1").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`gpu1` is no address, and no name in ")
        );
        assert_eq!(error.hint(), "did you mean `gpu0`?");
        assert!(host.resolve("q").unwrap_err().hint().contains("host list"));
        fs::remove_file(host.dir.as_path().join("devices.toml")).unwrap();
        // The parser of addresses refuses it.
        assert_eq!(host.resolve("gpu1").unwrap(), "gpu1");
        fs::create_dir(host.dir.as_path().join("devices.toml")).unwrap();
        assert!(matches!(host.resolve("gpu1"), Err(NameError::Read { .. })));
    }

    #[test]
    fn mistakes_have_their_line() {
        for (text, line, mistake) in [
            ("a = '01:00.0'\nb = 1", 2, "neither a text nor a table"),
            ("a = 'b'", 1, "`b` is neither an address nor a UUID"),
            ("\n\na = {}", 3, "no `address`"),
            ("a = { address = '01:00.0', ip = '' }", 1, "`ip` is neither"),
            (
                "a = { address = '01:00.0', id = '1:2' }",
                1,
                "`1:2` is no id",
            ),
            ("a = { address = 1 }", 1, "`address` is no text"),
            ("'1a' = '01:00.0'", 1, "`1a` is no name"),
            ("'01:00.0' = '01:00.0'", 1, "is no name"),
            ("a = '01:00.0'\na = '01:00.0'", 2, "not TOML"),
        ] {
            match Host::new(text).resolve("x").unwrap_err() {
                NameError::Text {
                    line: at,
                    mistake: said,
                    ..
                } => {
                    assert_eq!(at, line, "{text}");
                    assert!(said.contains(mistake), "{text}: {said}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
