//! Text in Markdown.

/// Escapes what would end a cell, or begin HTML, a link, code, emphasis, or at the beginning a
/// heading, a list or a rule: a device and a guest's kernel say what they like.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c.is_control() {
            escaped.push(' ');
            continue;
        }
        let before = escaped.trim_start();
        let begins = before.is_empty() && matches!(c, '#' | '-' | '+' | '=' | '>');
        // A number, a dot or a bracket, and a space begin a list.
        let number = !before.is_empty() && before.bytes().all(|b| b.is_ascii_digit());
        let list = number && matches!(c, '.' | ')') && !rest.as_str().starts_with(is_of_word);
        // Inside a word, an underscore emphasizes nothing (CommonMark 0.31, 6.2).
        let underscore = c == '_' && !escaped.ends_with(is_of_word);
        let always = matches!(c, '\\' | '|' | '<' | '[' | '`' | '&' | '*' | '~');
        if begins || list || underscore || always {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric()
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
        for (text, escaped) in [
            ("# X", "\\# X"),
            (" - x-y", " \\- x-y"),
            ("1. disk 2.5", "1\\. disk 2.5"),
            ("---", "\\---"),
            ("io_uring", "io_uring"),
            ("*a* _b_ ~~c~~", "\\*a\\* \\_b_ \\~\\~c\\~\\~"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }
}
