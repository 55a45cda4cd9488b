//! Adds to a text. Unlike writing, this cannot fail.

use std::fmt::Arguments;

pub fn add(text: &mut String, more: Arguments<'_>) {
    text.push_str(&more.to_string());
}

pub fn add_line(text: &mut String, more: Arguments<'_>) {
    add(text, more);
    text.push('\n');
}
