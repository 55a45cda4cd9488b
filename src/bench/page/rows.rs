//! A plot of a row for each subject: a value, with the range in which it lies. Names and figures
//! are cells of a table, so that a long name is wrapped and nothing is cut; the plot between them
//! has positions in per cent, so that it fits a page of any width.

use crate::page::axis::Axis;
use crate::page::escape::escape;
use crate::report::add::add;

/// What a row shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// The name at the left.
    pub(super) name: String,
    /// What stands below the name.
    pub(super) note: String,
    /// The figure at the right.
    pub(super) figure: String,
    /// The value; without it, the row is empty.
    pub(super) value: Option<f64>,
    /// The range that is drawn as a bar.
    pub(super) range: Option<(f64, f64)>,
    /// The wider range that is drawn as a line.
    pub(super) whole: Option<(f64, f64)>,
    /// Whether the row is of less weight, as a published figure is.
    pub(super) faint: bool,
}

impl Row {
    fn values(&self) -> impl Iterator<Item = f64> {
        let pairs = [self.range, self.whole].into_iter().flatten();
        self.value
            .into_iter()
            .chain(pairs.flat_map(|(a, b)| [a, b]))
    }
}

/// The plot. Each row's bar begins at `from`, if that is given, as in a waterfall. An empty text if
/// no row has a value.
pub(super) fn plot(title: &str, rows: &[Row], from: Option<f64>) -> String {
    let values = rows.iter().flat_map(Row::values).chain(from);
    let Some(axis) = Axis::of(values).filter(|_| rows.iter().any(|row| row.value.is_some())) else {
        return String::new();
    };
    let ticks = axis.ticks();
    let mut grid = String::new();
    for tick in &ticks {
        vertical(&mut grid, axis.percent(tick.value), "grid");
    }
    if let Some(from) = from {
        vertical(&mut grid, axis.percent(from), "one");
    }
    let mut html = String::from("<table class=\"plot\"><tbody>\n");
    for row in rows {
        let note = match row.note.as_str() {
            "" => String::new(),
            note => format!("<br><small>{}</small>", escape(note)),
        };
        let name = escape(&row.name);
        let figure = escape(&row.figure);
        add(
            &mut html,
            format_args!(
                "<tr><th scope=\"row\">{name}{note}</th>\
                 <td class=\"bars\"><svg height=\"26\" role=\"img\" \
                 aria-label=\"{name}: {figure}\">{grid}{}</svg></td>\
                 <td class=\"figure\">{figure}</td></tr>\n",
                marks(row, axis, from)
            ),
        );
    }
    html.push_str("<tr class=\"axis\"><th></th><td class=\"bars\"><svg height=\"38\">");
    for tick in &ticks {
        let at = axis.percent(tick.value);
        // A label at an end of the axis stays within it.
        let anchor = match at {
            at if at < 6.0 => "start",
            at if at > 94.0 => "end",
            _ => "middle",
        };
        add(
            &mut html,
            format_args!(
                "<line class=\"tick\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"0\" y2=\"5\"/>\
                 <text x=\"{at:.2}%\" y=\"18\" text-anchor=\"{anchor}\">{}</text>",
                escape(&tick.label)
            ),
        );
    }
    add(
        &mut html,
        format_args!(
            "<text x=\"50%\" y=\"34\" text-anchor=\"middle\">{}</text></svg></td><td></td></tr>\n\
             </tbody></table>\n",
            escape(title)
        ),
    );
    html
}

fn vertical(svg: &mut String, at: f64, class: &str) {
    add(
        svg,
        format_args!(
            "<line class=\"{class}\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"0\" y2=\"26\"/>"
        ),
    );
}

/// The bar, the line and the dot of a row.
fn marks(row: &Row, axis: Axis, from: Option<f64>) -> String {
    let mut svg = String::new();
    let Some(value) = row.value else {
        return svg;
    };
    let class = if row.faint { " faint" } else { "" };
    let at = axis.percent(value);
    let bar = |svg: &mut String, low: f64, high: f64, (y, height): (u32, u32), class: &str| {
        let (low, high) = (axis.percent(low.min(high)), axis.percent(high.max(low)));
        add(
            svg,
            format_args!(
                "<rect class=\"{class}\" x=\"{low:.2}%\" width=\"{:.2}%\" y=\"{y}\" \
                 height=\"{height}\"/>",
                (high - low).max(0.1)
            ),
        );
    };
    if let Some(from) = from {
        bar(&mut svg, from, value, (5, 16), "step");
    }
    if let Some((low, high)) = row.whole {
        bar(&mut svg, low, high, (12, 2), "whole");
    }
    if let Some((low, high)) = row.range {
        bar(&mut svg, low, high, (10, 6), "range");
    }
    add(
        &mut svg,
        format_args!("<circle class=\"value{class}\" cx=\"{at:.2}%\" cy=\"13\" r=\"5\"/>"),
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_whole_name_and_its_marks() {
        let long = "a name & a <very> long one that needs two lines ".repeat(3);
        let row = |name: &str, value| Row {
            name: name.into(),
            figure: "7 µs".into(),
            value,
            range: value.map(|v| (v * 0.9, v * 1.1)),
            ..Row::default()
        };
        let html = plot("µs", &[row(&long, Some(7.0)), row("none", None)], None);
        assert!(html.contains(&escape(&long)), "{html}");
        assert_eq!(html.matches("<circle").count(), 1);
        assert_eq!(html.matches("class=\"range\"").count(), 1);
        assert_eq!(html.matches("<tr").count(), 3);
        assert_eq!(plot("µs", &[row("none", None)], Some(1.0)), "");
        let steps = plot("ratio", &[row("slow", Some(9.0))], Some(1.0));
        assert_eq!(steps.matches("class=\"step\"").count(), 1);
        assert_eq!(steps.matches("class=\"one\"").count(), 1);
    }
}
