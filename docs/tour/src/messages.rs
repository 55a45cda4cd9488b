//! What a translator translates: the paragraphs, headings and list items of the chapters, as
//! mdbook-i18n-helpers takes them from the book. `make book` compares the two.
//!
//! What is woven is left out: each output, figure and piece of source follows a comment that says
//! so ([`SKIP`]). So a register with another name changes a chapter and none of its translations.

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};
use pulldown_cmark_to_cmark::{Options as Style, cmark_resume_with_options};

use crate::catalog::{Catalog, LANGUAGES, Message, TEMPLATE, path};
use crate::weave::{SKIP, Sources};
use crate::{CHAPTERS, chapter_path};

/// The messages of a text, in order.
///
/// # Errors
/// The text cannot be written as Markdown again.
pub fn of_text(text: &str) -> Result<Vec<String>, String> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_OLD_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES;
    let mut found = Found::default();
    let mut in_code = false;
    for event in Parser::new_ext(text, options) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => {
                found.end()?;
                (in_code, found.skip) = (true, false);
            }
            Event::End(TagEnd::CodeBlock) => in_code = false,
            _ if in_code => {}
            Event::Start(Tag::Paragraph) => {
                found.end()?;
                found.message.push(event);
            }
            Event::End(TagEnd::Paragraph) => {
                found.message.push(event);
                found.end()?;
            }
            Event::Html(html) => {
                found.end()?;
                found.skip |= html.trim() == SKIP.trim();
            }
            Event::SoftBreak => found.message.push(Event::Text(" ".into())),
            Event::Start(tag @ (Tag::Link { .. } | Tag::Image { .. })) => {
                found.message.push(Event::Start(inline(tag)));
            }
            event if is_inline(&event) => found.message.push(event),
            _ => found.end()?,
        }
    }
    found.end()?;
    Ok(found.messages)
}

/// The messages so far.
#[derive(Default)]
struct Found<'a> {
    messages: Vec<String>,
    /// The events of the message that has begun.
    message: Vec<Event<'a>>,
    /// The next message is none.
    skip: bool,
}

impl Found<'_> {
    /// Ends the message that has begun.
    fn end(&mut self) -> Result<(), String> {
        if self.message.is_empty() {
            return Ok(());
        }
        let style = Style {
            list_token: '-',
            emphasis_token: '_',
            strong_token: "**",
            ..Style::default()
        };
        let mut text = String::new();
        let events = self.message.drain(..);
        cmark_resume_with_options(events, &mut text, None, style)
            .map_err(|e| format!("{text}: {e}"))?;
        let text = text.trim_start_matches('\n');
        if !std::mem::take(&mut self.skip) && !text.trim().is_empty() {
            self.messages.push(text.to_owned());
        }
        Ok(())
    }
}

fn is_inline(event: &Event<'_>) -> bool {
    matches!(
        event,
        Event::Start(Tag::Emphasis | Tag::Strong | Tag::Strikethrough)
            | Event::End(
                TagEnd::Emphasis
                    | TagEnd::Strong
                    | TagEnd::Strikethrough
                    | TagEnd::Link
                    | TagEnd::Image
            )
            | Event::Text(_)
            | Event::Code(_)
            | Event::FootnoteReference(_)
            | Event::HardBreak
            | Event::InlineHtml(_)
    )
}

/// A link or image with its address in it.
fn inline(mut tag: Tag<'_>) -> Tag<'_> {
    if let Tag::Link { link_type, .. } | Tag::Image { link_type, .. } = &mut tag
        && matches!(
            link_type,
            LinkType::Shortcut | LinkType::Collapsed | LinkType::Reference
        )
    {
        *link_type = LinkType::Inline;
    }
    tag
}

/// The files of the book, in its order.
pub fn files() -> Vec<&'static str> {
    let chapters = CHAPTERS.iter().map(|(_, name)| *name);
    ["SUMMARY.md", "README.md"]
        .into_iter()
        .chain(chapters)
        .collect()
}

/// All messages of the book, each once, with the files that have it.
///
/// # Errors
/// A file cannot be read.
pub fn of_book(sources: &Sources) -> Result<Catalog, String> {
    let mut catalog = Catalog::default();
    for name in files() {
        let mut text = sources.read(&chapter_path(name))?;
        if name == "SUMMARY.md" {
            text = without_addresses(&text);
        }
        for id in of_text(&text)? {
            catalog.add(Message::new(&id, &format!("chapters/{name}")));
        }
    }
    Ok(catalog)
}

/// The files of docs/tour/po: path, text, and what the text would be.
///
/// # Errors
/// A file cannot be read, or is no catalog.
pub fn files_of_translators(sources: &Sources) -> Result<Vec<(String, String, String)>, String> {
    let mut book = of_book(sources)?;
    let catalog = |path: &str| {
        let text = sources.read(path)?;
        let catalog = Catalog::parse(&text).map_err(|e| format!("{path}, {e}"))?;
        Ok::<_, String>((text, catalog))
    };
    let (text, template) = catalog(TEMPLATE)?;
    book.header = template.header;
    let mut files = vec![(TEMPLATE.to_owned(), text, book.text())];
    for (language, _) in LANGUAGES {
        let path = path(language);
        let (text, translations) = catalog(&path)?;
        files.push((path, text, book.translated_by(&translations).text()));
    }
    Ok(files)
}

/// The table of contents without the addresses of its links: the titles alone are translated.
fn without_addresses(text: &str) -> String {
    let line = |line: &str| {
        let (before, rest) = line.split_once('[')?;
        let (title, _) = rest.rsplit_once("](")?;
        Some(format!("{before}{title}"))
    };
    let lines = text.lines();
    lines
        .map(|l| line(l).unwrap_or_else(|| l.to_owned()) + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_translated_and_what_is_woven_is_not() {
        let text = "# A *title*\n\nOne\nsentence.\n\n\
                    <!-- weave: run -->\n<!-- i18n:skip -->\n```console\n$ x \"y\"\n```\n\
                    <!-- end -->\n\n1. A question\n\n   <details><summary>Answer</summary>\n\n   \
                    An answer.\n\n   </details>\n\n- an [item][a]\n\n\
                    <!-- i18n:skip -->\nA skipped\nparagraph.\n\n[a]: b.md\n";
        assert_eq!(
            of_text(text).unwrap(),
            [
                "A _title_",
                "One sentence.",
                "A question",
                "An answer.",
                "an [item](b.md)"
            ]
        );
    }

    #[test]
    fn a_table_of_contents_has_titles() {
        let text = "# Book\n\n[First](a.md)\n\n- [Second](b.md)\n- [Third]()\n";
        assert_eq!(
            of_text(&without_addresses(text)).unwrap(),
            ["Book", "First", "Second", "Third"]
        );
    }
}
