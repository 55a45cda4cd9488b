//! The links of the book's pages. A chapter links to files of the workspace, such as
//! `../../../src/vmm/bus.rs`, which are not in the book; the book gets copies of them, as text.

/// From the folder of the chapters to the workspace.
const CHAPTERS: &str = "docs/tour/chapters";

/// The attributes that have an address.
const ATTRIBUTES: [&str; 2] = ["href=\"", "src=\""];

/// The addresses on a page, in order of their attributes.
pub fn links(page: &str) -> Vec<&str> {
    let of = |attribute: &'static str| {
        page.split(attribute)
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(link, _)| link)
    };
    ATTRIBUTES.into_iter().flat_map(of).collect()
}

/// The copy of a file, from the folder of the book.
pub fn copy_of(file: &str) -> String {
    format!("files/{file}.txt")
}

/// The file of the workspace to which a link of a page leads, if it is not in the book.
fn file_of(link: &str) -> Option<String> {
    let (path, _) = link.split_once('#').unwrap_or((link, ""));
    if !path.starts_with("../") {
        return None;
    }
    let mut folders: Vec<_> = CHAPTERS.split('/').collect();
    let mut names = path.split('/').peekable();
    while names.next_if_eq(&"..").is_some() {
        folders.pop()?;
    }
    folders.extend(names);
    let file = folders.join("/");
    // mdBook makes pages of all Markdown, and takes these for its own.
    Some(match file.strip_suffix(".html") {
        Some(stem) => format!("{stem}.md"),
        None => file,
    })
}

/// The table of contents, by which chapters call it and as a page.
const CONTENTS: [&str; 2] = ["\"SUMMARY.html\"", "\"toc.html\""];

/// The page with its links to files of the workspace led to copies, and these files.
pub fn with_files(page: &str) -> (String, Vec<String>) {
    let mut text = page.replace(CONTENTS[0], CONTENTS[1]);
    let mut files = Vec::new();
    for link in links(page) {
        if let Some(file) = file_of(link) {
            text = text.replace(&format!("\"{link}\""), &format!("\"{}\"", copy_of(&file)));
            files.push(file);
        }
    }
    (text, files)
}

/// Whether a link of a page leads to something. `read` gives the text of a file of the book, and
/// an empty text for what is no page.
pub fn resolves(link: &str, page: &str, read: impl FnOnce(&str) -> Option<String>) -> bool {
    if link.starts_with("https://") || link.starts_with("data:") {
        return true;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => Some(page.to_owned()),
        path => read(path),
    };
    target.is_some_and(|text| anchor.is_empty() || text.contains(&format!("id=\"{anchor}\"")))
}

/// What unfolds an answer, which is HTML and so no message of the translators.
const ANSWER: &str = "<summary>Answer</summary>";

/// The page with the words that no message has in the page's language.
pub fn with_words(page: &str, language: &str) -> String {
    match language {
        "zh_CN" => page.replace(ANSWER, "<summary>答案</summary>"),
        _ => page.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_workspace_are_copied() {
        let page = "<a href=\"../../../src/a.rs\">a</a> <a href=\"../../reading.html#b\">b</a> \
                    <a href=\"2-b.html\">c</a> <img src=\"x.svg\"> <a href=\"../../../..\">d</a> \
                    <a href=\"SUMMARY.html\">e</a>";
        let (text, files) = with_files(page);
        assert_eq!(files, ["src/a.rs", "docs/reading.md"]);
        assert!(text.contains("\"files/src/a.rs.txt\"") && text.contains("\"2-b.html\""));
        assert!(text.contains("\"files/docs/reading.md.txt\""));
        assert_eq!(links(&text).len(), 6);
        assert!(text.contains("\"toc.html\""));
    }

    #[test]
    fn words_outside_of_messages_are_translated() {
        let page = "<details><summary>Answer</summary> Answer </details>";
        let chinese = with_words(page, "zh_CN");
        assert_eq!(
            chinese,
            "<details><summary>答案</summary> Answer </details>"
        );
        assert_eq!(with_words(page, "en"), page);
        for (language, _) in crate::catalog::LANGUAGES {
            assert!(!with_words(page, language).contains(ANSWER), "{language}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let read = |file: &str| (file == "b.html").then(|| "<h2 id=\"x\">".to_owned());
        for good in ["b.html", "b.html#x", "#own", "https://example.org/a"] {
            assert!(resolves(good, "<p id=\"own\">", read), "{good}");
        }
        for bad in ["c.html", "b.html#y", "#x", "/b.html"] {
            assert!(!resolves(bad, "<p id=\"own\">", read), "{bad}");
        }
    }
}
