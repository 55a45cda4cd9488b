//! The preprocessor's lines: comments, `#define` and `#ifdef`.

use std::collections::{HashMap, HashSet};

use crate::tokens::{self, Token};

/// The macros that have been defined.
#[derive(Debug, Default)]
pub struct Macros {
    values: HashMap<String, Vec<Token>>,
    /// Names of macros with a value, in order.
    order: Vec<String>,
    /// Names of all macros, also of those with parameters.
    names: HashSet<String>,
}

impl Macros {
    /// Reads a header's lines. Returns the tokens outside of preprocessor lines.
    pub fn read(&mut self, text: &str) -> Result<Vec<Token>, String> {
        let plain = without_comments(text).replace("\\\n", " ");
        let mut code = String::new();
        // Whether the lines of each open `#if` are read.
        let mut open: Vec<bool> = Vec::new();
        for line in plain.lines() {
            let Some(directive) = line.trim_start().strip_prefix('#') else {
                if open.iter().all(|read| *read) {
                    code.push_str(line);
                    code.push('\n');
                }
                continue;
            };
            let directive = directive.trim();
            let (word, rest) = directive
                .split_once(char::is_whitespace)
                .unwrap_or((directive, ""));
            let rest = rest.trim();
            match word {
                "ifdef" => open.push(self.names.contains(rest)),
                "ifndef" => open.push(!self.names.contains(rest)),
                "else" => {
                    let last = open.last_mut().ok_or("an #else without an #if")?;
                    *last = !*last;
                }
                "endif" => drop(open.pop().ok_or("an #endif without an #if")?),
                "if" | "elif" => return Err(format!("the reader knows no #{directive}")),
                "define" if open.iter().all(|read| *read) => self.define(rest)?,
                _ => {}
            }
        }
        tokens::split(&code)
    }

    fn define(&mut self, text: &str) -> Result<(), String> {
        let end = text
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len());
        let (name, value) = text.split_at(end);
        self.names.insert(name.to_owned());
        if value.starts_with('(') || value.trim().is_empty() {
            return Ok(());
        }
        let value = tokens::split(value).map_err(|error| format!("{name}: {error}"))?;
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
        Ok(())
    }

    /// The tokens of a macro.
    pub fn get(&self, name: &str) -> Option<&[Token]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// The names of macros that have a value, in the headers' order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }
}

fn without_comments(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        plain.push_str(&rest[..start]);
        plain.push(' ');
        rest = rest[start..]
            .find("*/")
            .map_or("", |end| &rest[start + end + 2..]);
    }
    plain.push_str(rest);
    plain
}
