//! Text in HTML and SVG: a device and a guest's kernel say what they like.

/// Escapes a text for an element and for an attribute in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Most of these characters may not stand in a page at all.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_device_cannot_write_html() {
        assert_eq!(
            escape("<script>\"a\"&'b'\0\n"),
            "&lt;script&gt;&quot;a&quot;&amp;&#39;b&#39;  "
        );
    }
}
