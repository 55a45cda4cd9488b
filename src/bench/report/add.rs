//! Adds to a text. Unlike writing, this cannot fail.

use std::fmt::Arguments;

pub(super) fn add(text: &mut String, more: Arguments<'_>) {
    text.push_str(&more.to_string());
}

pub(super) fn add_line(text: &mut String, more: Arguments<'_>) {
    add(text, more);
    text.push('\n');
}
