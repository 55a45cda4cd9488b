//! Messages and their translations, in the format of GNU gettext: docs/tour/po.

use std::collections::BTreeSet;
use std::fmt::Write;

/// The messages of the book, without translations.
pub const TEMPLATE: &str = "docs/tour/po/messages.pot";
/// The languages into which the book is translated, and the first and last chapter that is
/// translated whole.
pub const LANGUAGES: [(&str, (u32, u32)); 1] = [("zh_CN", (1, 6))];

/// The path of a language's translations.
pub fn path(language: &str) -> String {
    format!("docs/tour/po/{language}.po")
}

/// A message and its translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The files that have it.
    pub files: Vec<String>,
    /// Its flags, such as `fuzzy`: the translation is a guess of a tool.
    pub flags: Vec<String>,
    /// The text. The first message of a file has none, and its translation is the file's header.
    pub id: String,
    /// The translation; empty if there is none.
    pub translation: String,
}

impl Message {
    /// A message without a translation.
    pub fn new(id: &str, file: &str) -> Self {
        Self {
            files: vec![file.into()],
            id: id.into(),
            ..Self::default()
        }
    }

    /// Whether a reader gets the translation.
    pub fn is_translated(&self) -> bool {
        !self.translation.is_empty() && !self.flags.iter().any(|flag| flag == "fuzzy")
    }
}

/// The messages of a book, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// What stands at the top: `Key: value` on each line.
    pub header: String,
    /// The messages, in order.
    pub messages: Vec<Message>,
}

impl Catalog {
    /// Adds a message. If it is there, it has one file more.
    pub fn add(&mut self, message: Message) {
        match self.messages.iter_mut().find(|m| m.id == message.id) {
            Some(known) => {
                for file in message.files {
                    if !known.files.contains(&file) {
                        known.files.push(file);
                    }
                }
            }
            None => self.messages.push(message),
        }
    }

    /// Parses a file.
    ///
    /// # Errors
    /// A line is none of the format that one language without plural forms needs.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut catalog = Self::default();
        let mut message = Message::default();
        // Whether strings go on with the translation.
        let mut in_translation = false;
        for (number, line) in (1..).zip(text.lines().chain(["msgid \"\""])) {
            let wrong = || format!("line {number}: `{line}` is not expected here");
            let line = line.trim();
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            if matches!(key, "#:" | "#," | "msgid") && in_translation {
                catalog.end(std::mem::take(&mut message));
                in_translation = false;
            }
            match key {
                "#:" => message.files.extend(rest.split(' ').map(str::to_owned)),
                "#," => message.flags.extend(rest.split(", ").map(str::to_owned)),
                "msgid" => message.id = unquoted(rest).ok_or_else(wrong)?,
                "msgstr" => {
                    in_translation = true;
                    message.translation = unquoted(rest).ok_or_else(wrong)?;
                }
                // Remarks, what a tool has kept of older messages, and empty lines.
                _ if line.is_empty() || line.starts_with('#') => {}
                _ => {
                    let text = unquoted(line).ok_or_else(wrong)?;
                    match in_translation {
                        true => message.translation += &text,
                        false => message.id += &text,
                    }
                }
            }
        }
        Ok(catalog)
    }

    fn end(&mut self, message: Message) {
        match message.id.is_empty() {
            true => self.header = message.translation,
            false => self.messages.push(message),
        }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = String::from("msgid \"\"\nmsgstr \"\"\n");
        for line in self.header.lines() {
            let _ = writeln!(text, "\"{}\\n\"", escaped(line));
        }
        for message in &self.messages {
            text.push('\n');
            for file in &message.files {
                let _ = writeln!(text, "#: {file}");
            }
            if !message.flags.is_empty() {
                let _ = writeln!(text, "#, {}", message.flags.join(", "));
            }
            let (id, translation) = (escaped(&message.id), escaped(&message.translation));
            let _ = writeln!(text, "msgid \"{id}\"\nmsgstr \"{translation}\"");
        }
        text
    }

    /// These messages with the translations of another catalog, and its header. What has changed a
    /// little keeps its translation, which a translator must look at: it is `fuzzy`, and no reader
    /// gets it. What nobody says any more is left out.
    #[must_use]
    pub fn translated_by(&self, other: &Self) -> Self {
        let is_here = |id: &str| self.messages.iter().any(|m| m.id == id);
        let gone: Vec<_> = other.messages.iter().filter(|m| !is_here(&m.id)).collect();
        let translated = self.messages.iter().map(|message| {
            let known = other.messages.iter().find(|m| m.id == message.id);
            let known = match known {
                Some(known) if !known.translation.is_empty() => known.clone(),
                _ => guess(message, &gone).unwrap_or_default(),
            };
            Message {
                flags: known.flags,
                translation: known.translation,
                ..message.clone()
            }
        });
        Self {
            header: other.header.clone(),
            messages: translated.collect(),
        }
    }
}

/// The translation of the message that is most like a new one in its words, if most words are the
/// same.
fn guess(message: &Message, gone: &[&Message]) -> Option<Message> {
    let alike = |other: &Message| {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
        let (own, other) = (words(&message.id), words(&other.id));
        // In thousandths: one for the same words, none for no word in common.
        own.intersection(&other).count() * 2000 / (own.len() + other.len())
    };
    let translated = gone.iter().filter(|m| !m.translation.is_empty());
    let best = translated.max_by_key(|m| alike(m))?;
    (alike(best) >= 600).then(|| Message {
        flags: vec!["fuzzy".into()],
        ..(*best).clone()
    })
}

/// What is wrong with the translations: of `whole` files each message has one, and in every
/// translation are the code and the addresses of its message, as often as there.
pub fn complaints(translations: &Catalog, whole: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    for message in &translations.messages {
        let needed = message.files.iter().any(|file| whole.contains(file));
        let id = &message.id;
        if needed && !message.is_translated() {
            complaints.push(format!("has no translation: {id}"));
        }
        if message.is_translated() && fixed(id) != fixed(&message.translation) {
            complaints.push(format!("has other code or links: {id}"));
        }
    }
    complaints
}

/// What a translation leaves as it is: code in backquotes, and the addresses of links.
fn fixed(text: &str) -> Vec<&str> {
    let code = text.split('`').skip(1).step_by(2);
    let links = text.split("](").skip(1);
    let links = links.filter_map(|rest| Some(rest.split_once(')')?.0));
    let mut fixed: Vec<_> = code.chain(links).collect();
    fixed.sort_unstable();
    fixed
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
        .replace('\t', "\\t")
}

/// The text of a string such as `"one \"two\"\n"`.
fn unquoted(string: &str) -> Option<String> {
    let inner = string.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        text.push(match char {
            '\\' => match chars.next()? {
                'n' => '\n',
                't' => '\t',
                other => other,
            },
            '"' => return None,
            char => char,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A remark.\nmsgid \"\"\nmsgstr \"\"\n\"Language: xx\\n\"\n\n\
        #: a.md b.md\n#, fuzzy\nmsgid \"\"\n\"one \\\"two\\\" \"\n\"\\\\ three\"\n\
        msgstr \"eins\"\n\n#~ msgid \"old\"\n#~ msgstr \"alt\"\n\nmsgid \"new\"\nmsgstr \"\"\n";

    #[test]
    fn a_catalog_is_read_as_it_was_written() {
        let catalog = Catalog::parse(TEXT).unwrap();
        assert_eq!(catalog.header, "Language: xx\n");
        let [one, new] = &catalog.messages[..] else {
            panic!("{catalog:?}");
        };
        assert_eq!(
            (&*one.id, &*one.translation),
            ("one \"two\" \\ three", "eins")
        );
        assert_eq!(one.files, ["a.md", "b.md"]);
        assert!(!one.is_translated() && !new.is_translated());
        assert_eq!(Catalog::parse(&catalog.text()), Ok(catalog));
        for wrong in [
            "msgid one",
            "msgid_plural \"x\"",
            "msgid \"a\" \"b\"",
            "msgid \"\\\"",
        ] {
            assert!(Catalog::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_translation_lacks_is_found() {
        let message = |id: &str, translation: &str, flag: &str| Message {
            flags: [flag]
                .into_iter()
                .filter(|f| !f.is_empty())
                .map(str::to_owned)
                .collect(),
            translation: translation.into(),
            ..Message::new(id, "a.md")
        };
        for (wrong, right) in [
            (message("x", "", ""), message("x", "y", "")),
            (message("x", "y", "fuzzy"), message("x", "y", "no-wrap")),
            (message("`x` y", "x y", ""), message("`x` y", "z `x`", "")),
            (
                message("[x](a.md)", "[y](b.md)", ""),
                message("[x](a.md)", "[y](a.md)", ""),
            ),
        ] {
            let complaints = |message: &Message, file: &str| {
                let messages = vec![message.clone()];
                let catalog = Catalog {
                    messages,
                    ..Catalog::default()
                };
                complaints(&catalog, &[file.into()]).len()
            };
            assert_eq!(complaints(&wrong, "a.md"), 1, "{wrong:?}");
            assert_eq!(complaints(&right, "a.md"), 0, "{right:?}");
            assert_eq!(complaints(&message("x", "", ""), "b.md"), 0);
        }
    }

    #[test]
    fn a_translation_stays_with_its_message() {
        let mut book = Catalog::default();
        for id in ["later", "new", "new"] {
            book.add(Message::new(id, "c.md"));
        }
        let mut old = Catalog::parse(TEXT).unwrap();
        old.messages[1].translation = "neu".into();
        let merged = book.translated_by(&old);
        let pairs = merged.messages.iter().map(|m| (&*m.id, &*m.translation));
        assert_eq!(pairs.collect::<Vec<_>>(), [("later", ""), ("new", "neu")]);
        assert_eq!(merged.header, old.header);
        assert!(merged.messages[1].is_translated());

        // A message with one other word keeps its translation as a guess; another message does not.
        let mut book = Catalog::default();
        for id in ["one \"two\" \\ four", "one and two"] {
            book.add(Message::new(id, "a.md"));
        }
        old.messages[0].flags.clear();
        let merged = book.translated_by(&old);
        let [guessed, other] = &merged.messages[..] else {
            panic!("{merged:?}");
        };
        assert_eq!(
            (&*guessed.translation, &*guessed.flags[0]),
            ("eins", "fuzzy")
        );
        assert!(!guessed.is_translated() && other.translation.is_empty());
    }
}
