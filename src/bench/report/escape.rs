//! Text in Markdown.

/// Escapes what would end a cell, or begin HTML, a link or code: a device and a guest's kernel say
/// what they like.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.push(' ');
            continue;
        }
        if matches!(c, '\\' | '|' | '<' | '[' | '`' | '&') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A command as code, in which a backslash escapes nothing but the bar of a table.
pub(super) fn code(text: &str) -> String {
    let one_line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!("`{}`", one_line.replace('`', "'").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::{code, escape};

    #[test]
    fn a_device_cannot_write_markdown() {
        assert_eq!(
            escape("a|b <img src=x> ![i](u) `c`\n# d"),
            "a\\|b \\<img src=x> !\\[i](u) \\`c\\` # d"
        );
        assert_eq!(code("lspci | `a`\n"), "`lspci \\| 'a' `");
        assert_eq!(escape("µs, 4–5 (6)"), "µs, 4–5 (6)");
    }
}
