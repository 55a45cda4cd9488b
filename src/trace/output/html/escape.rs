//! Text in HTML. A guest and a traced program choose strings, and none of them may become markup.

use std::fmt::{self, Display, Write};

/// Text that is safe in an element and in a quoted attribute (HTML, 13.1.4 "Character references").
/// Control characters, and those that turn the direction of writing, are shown as `\u{…}`.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => to.write_str("&amp;")?,
                '<' => to.write_str("&lt;")?,
                '>' => to.write_str("&gt;")?,
                '"' => to.write_str("&quot;")?,
                '\'' => to.write_str("&#39;")?,
                c if c.is_control() || is_format(c) => write!(to, "\\u{{{:x}}}", u32::from(c))?,
                c => to.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Marks of direction and characters without a width (Unicode, 23.2 "Layout Controls"), and those
/// that are no characters.
fn is_format(character: char) -> bool {
    matches!(character,
        '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}')
}

/// The first characters of a text.
pub fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_text_is_markup() {
        let text = "<script>alert('x')</script>&\"\u{202e}\0é";
        assert_eq!(
            Escaped(text).to_string(),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;\\u{202e}\\u{0}é"
        );
        assert_eq!(short("ééé", 2), "éé…");
        assert_eq!(short("éé", 2), "éé");
    }

    proptest! {
        #[test]
        fn any_text_stays_text(text in any::<String>()) {
            let escaped = Escaped(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            prop_assert!(!escaped.chars().any(char::is_control));
            let references = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
            for (at, _) in escaped.match_indices('&') {
                prop_assert!(references.iter().any(|r| escaped[at..].starts_with(r)));
            }
        }
    }
}
