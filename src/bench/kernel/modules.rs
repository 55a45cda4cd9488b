//! Which modules a device needs, in the order in which they are loaded: modules.alias names the
//! driver, modules.dep what it needs, and modules.softdep what it asks for before and after
//! (modules.dep(5), modprobe.d(5), depmod(8)). A driver that no list names is a part of the kernel,
//! or does not exist; the guest finds out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// The lists of a kernel's modules.
#[derive(Debug, Default)]
pub struct Lists {
    aliases: String,
    dependencies: String,
    soft: String,
}

impl Lists {
    /// Reads the lists in a directory such as /lib/modules/6.1.0. A missing list is empty: the
    /// kernel has no modules then.
    ///
    /// # Errors
    /// A list exists and cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let text = |name: &str| match fs::read(dir.join(name)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(e).context(format!("cannot read {name} in {}", dir.display())),
        };
        Ok(Self {
            aliases: text("modules.alias")?,
            dependencies: text("modules.dep")?,
            soft: text("modules.softdep")?,
        })
    }

    /// The files of the modules for a device with this `modalias`, relative to the lists'
    /// directory. A module comes after all that it needs.
    pub fn for_device(&self, modalias: &str) -> Vec<PathBuf> {
        let mut order = Order {
            lists: self,
            started: BTreeSet::new(),
            files: Vec::new(),
        };
        for line in self.aliases.lines() {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("alias") {
                continue;
            }
            if let (Some(pattern), Some(module)) = (words.next(), words.next())
                && matches(pattern.as_bytes(), modalias.as_bytes())
            {
                order.add(module);
            }
        }
        order.files
    }

    /// The file of a module, and the files that it needs, the farthest last.
    fn line_of(&self, module: &str) -> Option<(&str, Vec<&str>)> {
        self.dependencies.lines().find_map(|line| {
            let (file, needs) = line.split_once(':')?;
            (name_of(file) == module).then(|| (file, needs.split_ascii_whitespace().collect()))
        })
    }

    /// The modules that a module asks for, before it and after it.
    fn soft_of(&self, module: &str) -> (Vec<String>, Vec<String>) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for line in self.soft.lines() {
            let mut words = line.split_ascii_whitespace();
            let is_it = words.next() == Some("softdep")
                && words.next().is_some_and(|name| normal(name) == module);
            if !is_it {
                continue;
            }
            let mut list = None;
            for word in words {
                match word {
                    "pre:" => list = Some(&mut before),
                    "post:" => list = Some(&mut after),
                    name => {
                        if let Some(list) = &mut list {
                            list.push(normal(name));
                        }
                    }
                }
            }
        }
        (before, after)
    }
}

struct Order<'a> {
    lists: &'a Lists,
    started: BTreeSet<String>,
    files: Vec<PathBuf>,
}

impl Order<'_> {
    /// Adds a module with all that it needs. A module that the lists do not have is a part of the
    /// kernel. Circles of soft dependencies end at a module that was started.
    fn add(&mut self, module: &str) {
        let module = normal(module);
        if !self.started.insert(module.clone()) {
            return;
        }
        let (before, after) = self.lists.soft_of(&module);
        before.iter().for_each(|name| self.add(name));
        if let Some((file, needs)) = self.lists.line_of(&module) {
            let needs: Vec<String> = needs.iter().rev().map(|file| name_of(file)).collect();
            needs.iter().for_each(|name| self.add(name));
            self.files.push(file.into());
        }
        after.iter().for_each(|name| self.add(name));
    }
}

/// A module's name: the kernel takes dashes for underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file such as `kernel/drivers/nvme/host/nvme-core.ko.xz`.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    normal(name.split(".ko").next().unwrap_or(name))
}

/// Whether a text matches a pattern as in fnmatch(3), with `*`, `?` and `[...]`, as the kernel's
/// aliases have them.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    match (first, text.split_first()) {
        (b'*', _) => {
            // The pattern after the last `*` decides; a text is short, and so is a pattern.
            (0..=text.len()).any(|taken| matches(rest, &text[taken..]))
        }
        (b'?', Some((_, text))) => matches(rest, text),
        (b'[', Some((&byte, text))) => {
            let Some(end) = rest.iter().position(|&b| b == b']') else {
                return false;
            };
            in_set(&rest[..end], byte) && matches(&rest[end + 1..], text)
        }
        (first, Some((&byte, text))) => first == byte && matches(rest, text),
        (_, None) => false,
    }
}

/// Whether a set such as `0-9A` has a byte.
fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        match set {
            [from, b'-', to, rest @ ..] => {
                if (*from..=*to).contains(&byte) {
                    return true;
                }
                set = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                set = rest;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> Lists {
        Lists {
            aliases: "# Aliases\n\
                alias pci:v*d*sv*sd*bc01sc08i02* nvme\n\
                alias pci:v000010ECd0000816[89]sv*sd*bc*sc*i* r8169\n\
                alias cpu:type:x86,ven*fam*mod*:feature:*0099* crc32c_intel\n"
                .into(),
            dependencies: "\
                kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz \
                kernel/lib/crc/crc64.ko.xz\n\
                kernel/drivers/nvme/host/nvme-core.ko.xz: kernel/lib/crc/crc64.ko.xz\n\
                kernel/lib/crc/crc64.ko.xz:\n\
                kernel/drivers/net/r8169.ko: kernel/drivers/net/phy/libphy.ko\n\
                kernel/drivers/net/phy/libphy.ko:\n\
                kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko\n"
                .into(),
            soft: "# Soft dependencies\n\
                softdep nvme-core pre: builtin_thing\n\
                softdep r8169 pre: realtek post: r8169\n"
                .into(),
        }
    }

    fn names(modalias: &str) -> Vec<String> {
        let files = lists().for_device(modalias);
        files.iter().map(|f| name_of(f.to_str().unwrap())).collect()
    }

    #[test]
    fn a_module_comes_after_all_that_it_needs() {
        let nvme = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
        assert_eq!(names(nvme), ["crc64", "nvme_core", "nvme"]);
        let card = "pci:v000010ECd00008168sv00001043sd00008677bc02sc00i00";
        assert_eq!(names(card), ["libphy", "realtek", "r8169"]);
        assert!(names("pci:v00001234d00000001sv0sd0bc02sc00i00").is_empty());
        assert!(Lists::default().for_device(nvme).is_empty());
    }

    #[test]
    fn patterns_are_those_of_fnmatch() {
        for (pattern, text, fits) in [
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("816[89]", "8169", true),
            ("816[0-7]", "8168", false),
            ("[a", "a", false),
            ("*", "", true),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, fits, "{pattern} {text}");
        }
    }
}
