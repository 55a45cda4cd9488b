//! The report as one HTML page of tables and plots. The page needs no script and no other file.

use std::fmt::Write;

use crate::error::Result;
use crate::figures::{cell, figure, ratio_to};
use crate::names::{SUBJECT, part_title};
use crate::report::plot;
use crate::report::series::{Line, lines, slopes};
use crate::results::{Measure, Results};

const STYLE: &str = "\
body{font:15px/1.5 sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}\
td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}\
tbody td:nth-child(2){font-weight:bold}figure{margin:1em 0}figcaption{font-weight:bold}\
.ratio{color:#666}details{margin:1em 0}";

/// The whole page.
pub fn html(results: &Results) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <title>mini-vmm: speed</title><style>{STYLE}</style></head><body>\n\
         <h1>mini-vmm: speed</h1>\n<p>{} (UTC)</p>\n<ul>\n",
        escape(&results.date)
    );
    for (name, value) in &results.about {
        let _ = writeln!(page, "<li>{}: {}</li>", escape(name), escape(value));
    }
    let _ = writeln!(
        page,
        "</ul>\n<p>Medians, in brackets the quartiles; × is {SUBJECT}'s median for each of that \
         column's. In the plots a bar ends at the median, and its stroke goes from quartile to \
         quartile.</p>"
    );
    for part in results.parts() {
        one_part(&mut page, results, part)?;
    }
    if !results.missing.is_empty() {
        page.push_str("<h2>Not measured</h2>\n<ul>\n");
        for line in &results.missing {
            let _ = writeln!(page, "<li>{}</li>", escape(line));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("<h2>Targets</h2>\n");
    let rows = results.targets.iter().map(|target| {
        [&target.target, target.word(), &target.figure]
            .map(str::to_owned)
            .to_vec()
    });
    table(&mut page, &["target", "reached", "figure"], rows);
    page.push_str("</body></html>\n");
    Ok(page)
}

fn one_part(page: &mut String, results: &Results, part: u8) -> Result<()> {
    let subjects = results.subjects(part);
    let _ = write!(
        page,
        "<h2>{}</h2>\n<table><thead><tr><th></th>",
        escape(part_title(part))
    );
    for subject in &subjects {
        let _ = write!(page, "<th>{}</th>", escape(subject));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in results.rows(part) {
        let _ = write!(page, "<tr><td>{}</td>", escape(&row[0].row().title()));
        for subject in &subjects {
            let measure = row.iter().find(|measure| measure.subject == *subject);
            let text = measure.map_or(String::new(), |measure| with_ratio(&row, measure));
            let _ = write!(page, "<td>{text}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table>\n");
    let grown = slopes(results, part);
    if !grown.is_empty() {
        let heads: Vec<&str> = std::iter::once("what grows, for each more")
            .chain(subjects.iter().copied())
            .collect();
        let rows = grown
            .into_iter()
            .map(|(title, by)| std::iter::once(title).chain(by).collect());
        table(page, &heads, rows);
    }
    growth_plots(page, results, part, &subjects)?;
    page.push_str("<details><summary>Each row as a plot</summary>\n");
    for row in results.rows(part).iter().filter(|row| row.len() > 1) {
        let title = format!("{}, {}", row[0].row().title(), row[0].unit);
        figure_of(
            page,
            title.trim_end_matches(", "),
            &plot::bars(row, &subjects)?,
        );
    }
    page.push_str("</details>\n");
    Ok(())
}

/// The text of a cell. For another subject than mini-vmm, the ratio of mini-vmm's median to that
/// subject's median follows.
fn with_ratio(row: &[&Measure], measure: &Measure) -> String {
    let ratio = ratio_to(row, measure).map_or(String::new(), |ratio| {
        format!(" <span class=\"ratio\">×{}</span>", figure(ratio))
    });
    format!("{}{ratio}", escape(&cell(measure)))
}

/// Writes a plot for each quantity and axis along which some subject has several points.
fn growth_plots(page: &mut String, results: &Results, part: u8, subjects: &[&str]) -> Result<()> {
    let all = lines(results, part);
    let mut drawn: Vec<(&str, &str)> = Vec::new();
    for line in &all {
        if drawn.contains(&(&line.title, &line.axis)) {
            continue;
        }
        drawn.push((&line.title, &line.axis));
        let together: Vec<&Line> = all
            .iter()
            .filter(|other| (&other.title, &other.axis) == (&line.title, &line.axis))
            .collect();
        if together.iter().any(|line| line.points.len() > 1) {
            let title = format!("{}, with more {}", line.title, line.axis);
            figure_of(page, &title, &plot::growth(&together, subjects)?);
        }
    }
    Ok(())
}

fn table(page: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    page.push_str("<table><thead><tr>");
    for head in heads {
        let _ = write!(page, "<th>{}</th>", escape(head));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table>\n");
}

fn figure_of(page: &mut String, title: &str, svg: &str) {
    let _ = writeln!(
        page,
        "<figure><figcaption>{}</figcaption>\n{svg}</figure>",
        escape(title)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = html(&example()).unwrap();
        assert!(page.contains("<td>3.00 (2.50–3.50) ms</td>"), "{page}");
        assert!(page.contains("×0.333"), "{page}");
        assert!(page.contains("no &lt;peer&gt; for part 2"), "{page}");
        assert!(
            page.contains("<td>start &lt; 4 ms</td><td>yes</td><td>3 ms</td>"),
            "{page}"
        );
        assert_eq!(page.matches("<svg").count(), 2);
        for word in ["<script", "src=", "href=", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
        for tag in ["table", "tr", "td", "figure", "svg", "ul", "li", "details"] {
            let open = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
