//! The C program's statements.

use std::collections::HashMap;

use super::text::Text;
use super::variants::{Argument, Line};
use crate::declared::Kind;
use crate::layout::{Field, Layout};

type Layouts<'a> = HashMap<&'a str, Layout>;

/// The C names of the table's numbers.
const NUMBERS: [(&str, &str); 10] = [
    ("u8", "__u8"),
    ("u16", "__u16"),
    ("u32", "__u32"),
    ("u64", "__u64"),
    ("s8", "__s8"),
    ("s16", "__s16"),
    ("s32", "__s32"),
    ("s64", "__s64"),
    ("char", "char"),
    ("ptr", "void *"),
];

/// Writes the statements of a case.
pub fn case(text: &mut Text, line: &Line, layouts: &Layouts<'_>) {
    text.begin(&line.name, line.kind);
    match line.argument {
        Argument::None => {}
        Argument::Number => text.number("arg", line.after("arg", "=")),
        Argument::Text => text.device("arg", "0000:01:00.0"),
        Argument::To(given) => {
            let header = text.header_type(&line.name);
            let Some(shown) = given.map(str::to_owned).or(header) else {
                text.end();
                return;
            };
            let block = text.block();
            text.argument(block);
            let whole = format!("(*({shown} *)b[{block}])");
            let mut fill = Fill {
                text,
                line,
                layouts,
                whole: &whole,
            };
            match shown.strip_prefix("struct ") {
                Some(name) => {
                    let layout = &layouts[name];
                    fill.record(layout, &whole, "");
                    fill.capabilities();
                }
                None => fill.text.set(&whole, "arg", None),
            }
        }
    }
    text.end();
}

struct Fill<'a> {
    text: &'a mut Text,
    line: &'a Line,
    layouts: &'a Layouts<'a>,
    /// The structure that the argument points to.
    whole: &'a str,
}

impl Fill<'_> {
    fn record(&mut self, layout: &Layout, at: &str, path: &str) {
        for field in &layout.fields {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{}", field.name);
            let at = format!("{at}.{}", field.name);
            self.field(field, &at, &path);
        }
    }

    fn field(&mut self, field: &Field, at: &str, path: &str) {
        let line = self.line;
        if line.leaves_out(path) {
            return;
        }
        if let Some(rest) = line.after(path, "->") {
            let (shown, count) = elements(rest);
            let block = self.text.block();
            self.text.pointer(at, block);
            for index in 0..count {
                let at = format!("(({shown} *)b[{block}])[{index}]");
                self.element(&shown, &at, &format!("{path}[{index}]"));
            }
        } else if let Some(rest) = line.after(path, "~") {
            let (shown, count) = elements(rest);
            for index in 0..count {
                let at = format!("(({shown} *)&{at})[{index}]");
                self.element(&shown, &at, &format!("{path}[{index}]"));
            }
        } else if let Some(member) = line.after(path, ":") {
            let union = &self.layouts[field.base.as_str()];
            let member = union.fields.iter().find(|field| field.name == member);
            let member = member.unwrap();
            let name = &member.name;
            self.field(member, &format!("{at}.{name}"), &format!("{path}.{name}"));
        } else if let Some(value) = line.after(path, "=") {
            let value = value.replace("sizeof(x)", &format!("sizeof({})", self.whole));
            self.text.set(at, path, Some(&value));
        } else if let Some(count) = line.after(path, "#") {
            for index in 0..count.parse::<u64>().unwrap() {
                self.plain(
                    field,
                    &format!("{at}[{index}]"),
                    &format!("{path}[{index}]"),
                );
            }
        } else {
            self.array(field, at, path);
        }
    }

    /// All elements of an array with a length, or the field itself.
    fn array(&mut self, field: &Field, at: &str, path: &str) {
        let lengths: Vec<u64> = field.lengths.iter().map(|one| one.unwrap_or(0)).collect();
        if lengths.is_empty() {
            self.plain(field, at, path);
            return;
        }
        let count: u64 = lengths.iter().product();
        for index in 0..count {
            let mut at = at.to_owned();
            let mut below = count;
            for length in &lengths {
                below /= length;
                at.push_str(&format!("[{}]", index / below % length));
            }
            let path = format!("{path}[{index}]");
            if self.line.leaves_out(&path) {
                continue;
            }
            // An element may have words of its own.
            let element = Field {
                lengths: Vec::new(),
                ..field.clone()
            };
            self.plain(&element, &at, &path);
        }
    }

    fn plain(&mut self, field: &Field, at: &str, path: &str) {
        match self.layouts.get(field.base.as_str()) {
            Some(layout) => match self.line.after(path, ":") {
                Some(_) => {
                    let element = Field {
                        lengths: Vec::new(),
                        ..field.clone()
                    };
                    self.field(&element, at, path);
                }
                None => self.record(layout, at, path),
            },
            None => match self.line.after(path, "=") {
                Some(value) => self.text.set(at, path, Some(value)),
                None if field.bits.is_some() => self.text.set_bits(at, path, field.bits),
                None => self.text.set(at, path, None),
            },
        }
    }

    fn element(&mut self, shown: &str, at: &str, path: &str) {
        match shown.strip_prefix("struct ") {
            Some(name) => self.record(&self.layouts[name], at, path),
            None => self.text.set(at, path, None),
        }
    }

    /// `@24~TYPE`: a capability at an offset of the structure.
    fn capabilities(&mut self) {
        let mut index = 0;
        for word in &self.line.words {
            let Some((offset, name)) = word.strip_prefix('@').and_then(|rest| rest.split_once('~'))
            else {
                continue;
            };
            let at = format!("(*(struct {name} *)((char *)&{} + {offset}))", self.whole);
            // In variants.txt by offset, in the decoder's fields by index.
            let own = format!("@{offset}");
            let path = if name == "vfio_info_cap_header" {
                format!("capabilities[{index}].header")
            } else {
                format!("capabilities[{index}]")
            };
            self.text.rename(&own, &path);
            self.record(&self.layouts[name], &at, &own);
            index += 1;
        }
    }
}

/// `TYPE#N` as a C type and a number.
fn elements(text: &str) -> (String, u64) {
    let (name, count) = text.split_once('#').unwrap();
    let shown = if name.starts_with("__") {
        name.to_owned()
    } else {
        format!("struct {name}")
    };
    (shown, count.parse().unwrap())
}

/// Writes statements that print a type if one of its bytes is neither padding nor in a field.
pub fn cover(text: &mut Text, name: &str, kind: Kind, layout: &Layout, layouts: &Layouts<'_>) {
    let word = match kind {
        Kind::Struct => "struct",
        Kind::Union => "union",
    };
    let mut statements = Vec::new();
    clear(&mut statements, layout, "x", layouts);
    // The compiler does not clear padding around an open array, and there is none.
    let open = layout
        .fields
        .iter()
        .any(|field| field.lengths.contains(&None));
    text.cover(&format!("{word} {name}"), &statements, !open);
}

fn clear(statements: &mut Vec<String>, layout: &Layout, at: &str, layouts: &Layouts<'_>) {
    for field in &layout.fields {
        let at = format!("{at}.{}", field.name);
        let open = field.lengths.iter().any(Option::is_none);
        match layouts.get(field.base.as_str()) {
            _ if open => {}
            Some(inner) if field.lengths.is_empty() => clear(statements, inner, &at, layouts),
            // The structure itself is looked at in its own turn.
            Some(_) => statements.push(format!("memset(&{at}, 0, sizeof({at}));")),
            None if field.bits.is_some() => statements.push(format!("{at} = 0;")),
            None => {
                let c = NUMBERS
                    .iter()
                    .find(|(own, _)| *own == field.base)
                    .unwrap()
                    .1;
                let count: u64 = field.lengths.iter().flatten().product();
                // The size is the table's and not the compiler's.
                statements.push(format!("memset(&{at}, 0, sizeof({c}) * {count});"));
            }
        }
    }
}
